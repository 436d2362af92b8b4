import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_tables import read_networks

from hw_profiles.errors import ProfileError


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_plain_and_gzipped_read_alike(tmp_path):
    plain = write(tmp_path, "a,b\n1,True\n2.5,False\n")
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for table in (read_networks(plain), read_networks(packed)):
        assert len(table) == 2
        assert table.numbers("a").tolist() == [1.0, 2.5]
        assert table.numbers("b").tolist() == [1.0, 0.0]
        assert table.texts("b") == ["True", "False"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a table"),
        ("a,b\n", "is not a table"),
        ("a,a\n1,2\n", "is not a table"),
        ("a,b\n1,2\n3\n", "1 cells in line 3, not 2"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, said):
    with pytest.raises(ProfileError, match=said):
        read_networks(write(tmp_path, text))


@pytest.mark.parametrize("cell", ["", "fast", "nan", "inf", "-1", "0"])
def test_a_cell_that_is_no_time_is_named(tmp_path, cell):
    table = read_networks(write(tmp_path, f"a,b\n1,2\n2,{cell}\n"))
    with pytest.raises(ProfileError, match="under b in line 3"):
        table.numbers("b", positive=True)


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"no column c\. It has a, b"):
        read_networks(write(tmp_path, "a,b\n1,2\n")).numbers("c")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_numbers_come_back(tmp_path_factory, values):
    text = "\n".join(["v", *map(repr, values)])
    table = read_networks(write(tmp_path_factory.mktemp("t"), text))
    assert table.numbers("v").tolist() == values
