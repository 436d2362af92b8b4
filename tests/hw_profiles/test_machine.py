"""What this machine is called, by what its system tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw_profiles.machine import processor_name, this_cpu

XEON = """processor\t: {}
vendor_id\t: GenuineIntel
model\t\t: 85
model name\t: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
stepping\t: 7

"""
ARM = """processor\t: {}
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {}
CPU revision\t: 3

"""
GRAVITON = "".join(ARM.format(i, "0xd0c") for i in range(2))
BIG_LITTLE = "".join(ARM.format(i, part) for i, part in enumerate(["0xd03", "0xd03", "0xd08"]))


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        (XEON.format(0) + XEON.format(1), "", "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"),
        (XEON.format(0), "A board\0", "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"),
        (GRAVITON, "Raspberry Pi 4 Model B Rev 1.4\0", "Raspberry Pi 4 Model B Rev 1.4"),
        (GRAVITON, "", "CPU implementer 0x41 part 0xd0c"),
        (BIG_LITTLE, "\0", "CPU implementer 0x41 part 0xd03 and 0x41 part 0xd08"),
        ("processor\t: 0\nhart\t\t: 1\n", "", ""),
        ("", "", ""),
    ],
)
def test_a_processor_is_called_what_its_system_calls_it(
    cpuinfo: str, board: str, name: str
) -> None:
    assert processor_name(cpuinfo, board) == name


def test_this_machine_is_called_by_its_model() -> None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    assert this_cpu().name
    assert this_cpu().name in named or not named
