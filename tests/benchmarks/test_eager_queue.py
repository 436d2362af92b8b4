import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from models.eager_queue import queued_ms

times = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=30)


@given(times)
def test_it_is_what_a_step_by_step_queue_gives(pairs):
    issued = done = 0.0
    for issue, kernel in pairs:
        issued += issue
        done = max(done, issued) + kernel
    issue, kernel = np.array(pairs).T
    assert np.isclose(queued_ms(issue, kernel), done)


def test_nothing_takes_no_time():
    assert queued_ms(np.array([]), np.array([])) == 0.0
