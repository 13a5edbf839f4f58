"""What was not measured by one source, from made-up lines."""

from harness.versions import versions


def test_seeds_and_sides_of_several_sources_are_named(make_line):
    lines = {
        "tsn-10": [make_line("tsn-10", seed, source_sha256=source * 4) for seed, source in enumerate(("aaaabbbb", "aaaabbbb", "ccccdddd"))],
        "alone-10": [make_line("alone-10", seed, source_sha256="aaaabbbb" * 4) for seed in range(2)],
        "wsn-fp32-10": [make_line("wsn-fp32-10", seed, source_sha256="aaaabbbb" * 4) for seed in range(3)],
    }
    heading, _, mixed, pairs = versions(lines)
    assert heading == "## Versions"
    assert mixed.splitlines()[2:] == ["| `tsn-10` | `aaaabbbb` (seeds 0, 1), `ccccdddd` (seed 2) |"]
    assert pairs.splitlines()[2:] == ["| `tsn-10` | `wsn-fp32-10` | `aaaabbbb` (seeds 0, 1), `ccccdddd` (seed 2) | `aaaabbbb` (seeds 0, 1, 2) |"], (
        "with `alone-10` only the seeds of both count"
    )


def test_one_source_is_said(make_line):
    lines = {name: [make_line(name, seed) for seed in range(2)] for name in ("tsn-10", "alone-10")}
    assert versions(lines)[2:] == [
        "All seeds of each variant come from one source.",
        "Both sides of each claim come, seed by seed, from one source.",
    ]
