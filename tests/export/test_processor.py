"""What the processor says of itself."""

from tsn_toolkit.export import processor

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C\nflags\t\t: fpu avx512_vnni amx_bf16\nprocessor\t: 1\nmodel name\t: other\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 5 Model B\n"


def test_name_and_instructions_are_read(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPU_INFO", info)
    assert not processor.processor_has_vnni() and not processor.processor_record()["bf16"], "no such file"
    info.write_text(XEON)
    found = processor.processor_record()
    assert (found["processor"], found["vnni"], found["bf16"]) == ("Intel(R) Xeon(R) Platinum 8481C", True, True)
    info.write_text(ARM)
    found = processor.processor_record()
    assert (found["processor"], found["vnni"], found["bf16"]) == ("Raspberry Pi 5 Model B", True, False)
