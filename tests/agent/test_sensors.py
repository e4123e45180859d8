"""Tests the sensors on this machine, and their parsers with recorded output of other systems."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import herd.agent.sensors
from herd.agent.hardware import BANDWIDTHS_GBPS, bandwidth_gbps
from herd.agent.sensors import Sensor, SensorPaths, amd, chip, cpu, disk, memory, nvidia, thermal
from herd.core.state.fleet import Gpu, Memory, Pressure, Report
from herd.discover import discover

SENSORS = discover(herd.agent.sensors, Sensor, "SENSOR")
FIELDS = {field.name for field in dataclasses.fields(Report)}

PSI = """some avg10={some} avg60=1.20 avg300=0.40 total=123456
full avg10={full} avg60=0.80 avg300=0.20 total=98765
"""
"""/proc/pressure/memory of Linux 6.1."""

PMSET_COOL = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
PMSET_HOT = """2026-11-23 12:00:00 +0000 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= 62
"""
"""`pmset -g therm` of macOS 13, on a cool Apple silicon machine and on a hot Intel one."""

CPUINFO_X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model\t\t: 97
model name\t: AMD Ryzen AI Max+ 395 w/ Radeon 8060S
"""
CPUINFO_PI = """processor\t: 0
BogoMIPS\t: 108.00
CPU part\t: 0xd0b

Revision\t: d04171
Model\t\t: Raspberry Pi 5 Model B Rev 1.1
"""


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda sensor: sensor.name)
def test_every_sensor_returns_only_report_fields_also_if_it_can_read_nothing(sensor: Sensor, tmp_path: Path) -> None:
    for paths in (SensorPaths(), SensorPaths(tmp_path, tmp_path / "sys", tmp_path / "proc")):
        values = sensor.read(paths)
        assert set(values) <= FIELDS, sensor.name


def test_this_machine_has_memory_cores_and_a_disk() -> None:
    values = {**memory.read(SensorPaths()), **cpu.read(SensorPaths()), **disk.read(SensorPaths())}
    found = values["memory"]
    assert isinstance(found, Memory) and found.total_bytes >= found.available_bytes > 0 and values["cores"]
    assert found.used_bytes == found.total_bytes - found.available_bytes and "disk" in values


@pytest.mark.parametrize(
    ("some", "full", "pressure"),
    [
        ("0.00", "0.00", Pressure.NORMAL),
        ("80.00", "9.99", Pressure.NORMAL),
        ("12.00", "10.00", Pressure.WARN),
        ("99.99", "30.00", Pressure.CRITICAL),
    ],
)
def test_linux_memory_pressure_follows_the_share_of_stalled_time(some: str, full: str, pressure: Pressure) -> None:
    assert memory.from_stall_information(PSI.format(some=some, full=full)) is pressure


def test_a_kernel_without_pressure_information_gives_none() -> None:
    assert memory.from_stall_information("") is None and memory.from_stall_information("some avg10=1.00") is None


@pytest.mark.parametrize(
    ("printed", "pressure"),
    [("1\n", Pressure.NORMAL), ("2\n", Pressure.WARN), ("4\n", Pressure.CRITICAL), ("", Pressure.NORMAL)],
)
def test_the_memory_pressure_level_of_macos(printed: str, pressure: Pressure) -> None:
    assert memory.from_macos(printed) is pressure


@pytest.mark.parametrize(
    ("share", "pressure"), [(0.5, Pressure.NORMAL), (0.07, Pressure.WARN), (0.02, Pressure.CRITICAL)]
)
def test_without_pressure_information_the_available_memory_decides(share: float, pressure: Pressure) -> None:
    assert memory.from_available(share) is pressure


def test_the_thermal_state_of_macos() -> None:
    assert [thermal.from_pmset(text) for text in (PMSET_COOL, PMSET_HOT, PMSET_HOT.replace("62", "100"), "")] == [
        "nominal",
        "warning",
        "nominal",
        "unknown",
    ]


def test_the_cpu_temperature_is_used_and_implausible_readings_are_ignored() -> None:
    assert thermal.hottest({"nvme": [99.0], "coretemp": [61.0, 255.0, -273.0, 74.5]}) == 74.5
    assert thermal.hottest({"acpitz": [27.8], "k10temp": [55.0]}) == 55.0
    assert thermal.hottest({"nvme": [40.0]}) is None and thermal.hottest({"coretemp": [0.0]}) is None


def test_the_chip_name_comes_from_cpuinfo() -> None:
    assert chip.from_cpuinfo(CPUINFO_X86) == "AMD Ryzen AI Max+ 395 w/ Radeon 8060S"
    assert chip.from_cpuinfo(CPUINFO_PI) == "Raspberry Pi 5 Model B Rev 1.1" and chip.from_cpuinfo("") == ""


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [
        ("Apple M4 Pro", 273.0),
        ("Apple M3 Ultra", 819.0),
        ("Apple M1", 68.0),
        ("NVIDIA GeForce RTX 4090", 1008.0),
        ("NVIDIA GeForce RTX 4070 Ti", 504.0),
        ("AMD Ryzen AI Max+ 395 w/ Radeon 8060S", 256.0),
        ("NVIDIA H100 80GB HBM3", 3350.0),
        ("NVIDIA A100-SXM4-80GB", 1555.0),
        ("Tesla V100S-PCIE-32GB", 900.0),
        ("NVIDIA RTX A1000", None),
        ("Intel(R) Celeron(R)", None),
        ("", None),
    ],
)
def test_a_known_chip_has_its_published_bandwidth(name: str, bandwidth: float | None) -> None:
    assert bandwidth_gbps(name) == bandwidth


def test_no_entry_of_the_table_hides_a_later_one() -> None:
    for index, (name, _) in enumerate(BANDWIDTHS_GBPS):
        assert not any(earlier in name for earlier, _ in BANDWIDTHS_GBPS[:index]), name


def test_amd_gpus_are_read_from_the_kernels_files_and_integrated_ones_are_ignored(tmp_path: Path) -> None:
    files = {
        "card0/device/mem_info_vram_total": "25753026560\n",
        "card0/device/mem_info_vram_used": "1073741824\n",
        "card0/device/gpu_busy_percent": "37\n",
        "card0/device/product_name": "RX 7900 XTX\n",
        "card0/device/hwmon/hwmon3/temp1_input": "61000\n",
        "card1/device/mem_info_vram_total": "536870912\n",
        "card1/device/mem_info_vram_used": "100\n",
        "card2/device/vendor": "0x10de\n",
        "card3/device/mem_info_vram_total": "garbage\n",
    }
    for name, text in files.items():
        path = tmp_path / "class" / "drm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert amd.read(SensorPaths(tmp_path, tmp_path, tmp_path)) == {
        "gpus": (Gpu("AMD Radeon RX 7900 XTX", 25753026560, 1 << 30, 37.0, 61.0),)
    }


def test_the_disk_is_that_of_ollamas_model_folder(tmp_path: Path) -> None:
    assert disk.models_folder(tmp_path, "") in (tmp_path, Path("/usr/share/ollama/.ollama/models"))
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert disk.models_folder(tmp_path, "") == tmp_path / ".ollama" / "models"
    (tmp_path / "elsewhere").mkdir()
    assert disk.models_folder(tmp_path, str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"
    assert disk.models_folder(tmp_path, str(tmp_path / "gone")) == tmp_path / ".ollama" / "models"


def test_without_an_nvidia_driver_there_are_no_values() -> None:
    assert set(nvidia.read(SensorPaths())) in (set(), {"gpus"}, {"gpus", "chip"})
