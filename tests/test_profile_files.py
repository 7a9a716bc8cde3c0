"""User-written profiles: power modes, `extends`, errors with line numbers, the editor schema, new profiles."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, here
from hypothesis import given
from hypothesis import strategies as st
from json_schema import fits

from tlexport.errors import InvalidFile, UsageError
from tlexport.hardware.profile import Profile
from tlexport.hardware.profile_file import merged
from tlexport.hardware.schema import FILE, json_schema
from tlexport.hardware.target import load_file, load_profile, profile_names, resolve, split_mode
from tlexport.hardware.toml_lines import KeyLines

SHIPPED = ROOT / "profiles"
NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
FACT = 'source = "the test that wrote it"\nstatus = "assumed"\n'


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty directory and sees only the shipped profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLX_PROFILES", raising=False)


def write(name: str, text: str, folder: str = "profiles") -> Path:
    path = Path(folder) / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'name = "{name}"\n{text}', encoding="utf-8")
    return path


def refused(name: str) -> str:
    with pytest.raises(InvalidFile) as error:
        load_file(name).check()
    return error.value.message


# Power modes


def test_a_mode_is_the_profile_with_its_own_figures() -> None:
    base, slow = load_profile("jetson-nano"), load_profile("jetson-nano:5w")
    assert (slow.name, slow.mode, slow.target) == ("jetson-nano", "5w", "jetson-nano:5w")
    assert base.mode is None
    assert slow.title == f"{base.title}, 5 W"
    assert base.hardware.gpu_mhz and slow.hardware.gpu_mhz and base.hardware.power_w and slow.hardware.power_w
    assert slow.hardware.gpu_mhz.value < base.hardware.gpu_mhz.value
    assert slow.hardware.power_w.value < base.hardware.power_w.value
    for same in ("runtime", "opset", "precisions", "match", "software", "budget"):
        assert getattr(slow, same) == getattr(base, same)
    assert slow.hardware.memory_mb == base.hardware.memory_mb


def test_a_mode_may_have_its_own_budget() -> None:
    write("line", 'extends = "jetson-nano"\n[modes.5w.budget]\nlatency_p95 = "90 ms"\nenergy = "50 mJ"\n')
    budget = load_profile("line:5w").budget
    assert (budget.latency_p95_ms, budget.energy_mj) == (90, 50)
    assert budget.size == load_profile("line").budget.size, "a limit that the mode does not name is the profile's"
    assert load_profile("line").budget.energy_mj is None


@pytest.mark.parametrize("name", NAMES)
def test_a_slower_mode_of_a_shipped_board_promises_nothing_more(name: str) -> None:
    """The file's own figures are those of the fastest mode, save for the clock of the few cores that some modes leave on."""
    base = load_profile(name)
    for mode in load_file(name).modes():
        profile = load_profile(f"{name}:{mode}")
        for key in ("cores", "bandwidth_gb_s", "gpu_mhz", "fp32_tflops", "fp16_tflops", "int8_tops"):
            ours, theirs = getattr(profile.hardware, key), getattr(base.hardware, key)
            assert (ours is None) == (theirs is None), f"{mode}: {key}"
            assert ours is None or ours.value <= theirs.value, f"{mode}: {key}"
        watts = re.match(r"(\d+)w", mode)
        if watts:
            assert profile.hardware.power_w is not None
            assert profile.hardware.power_w.value == int(watts[1])


@pytest.mark.parametrize("name", NAMES)
def test_peaks_are_in_step_with_clocks(name: str) -> None:
    """Peak rates of a GPU are a number of operations per cycle: whole, and the same ratio of precisions in every mode."""
    ratios = set()
    for mode in ("", *(f":{mode}" for mode in load_file(name).modes())):
        hardware = load_profile(name + mode).hardware
        if hardware.gpu_mhz is None or hardware.fp16_tflops is None or hardware.fp32_tflops is None:
            return
        per_cycle = hardware.fp16_tflops.value * 1e6 / hardware.gpu_mhz.value
        assert per_cycle / 256 == pytest.approx(round(per_cycle / 256), rel=0.01), mode
        ratios.add(round(hardware.fp16_tflops.value / hardware.fp32_tflops.value))
    assert len(ratios) == 1


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("jetson-orin-nano:15W", "has no mode '15W'; did you mean '15w'?", "its modes: maxn-super, 7w, 15w, 25w"),
        ("jetson-orin-nano:max", "has no mode 'max'", "its modes: maxn-super"),
        ("jetson-orin-nano:", "has no mode ''", "its modes: "),
        ("cpu-x86:15w", "has no power modes, and so no '15w'", "name it alone: cpu-x86"),
        ("jetson-orinnano:15w", "there is no profile 'jetson-orinnano'; did you mean 'jetson-orin-nano'?", "known: "),
    ],
)
def test_a_mode_that_is_not_there(name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(name)
    assert message in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("jetson-nano", ("jetson-nano", None)),
        ("jetson-nano:5w", ("jetson-nano", "5w")),
        ("a/b.toml:5w", ("a/b.toml", "5w")),
        ("C:\\boards\\b.toml", ("C:\\boards\\b.toml", None)),
        ("C:\\boards\\b.toml:5w", ("C:\\boards\\b.toml", "5w")),
    ],
)
def test_a_name_and_its_mode(text: str, parts: tuple[str, str | None]) -> None:
    assert split_mode(text) == parts


def test_a_mode_of_a_file_that_is_named_by_its_path() -> None:
    path = write("line", 'extends = "jetson-nano"\n', folder="elsewhere")
    assert resolve(f"{path}:5w").profile.target == "line:5w"


# extends


def test_a_device_is_added_by_a_file_of_three_lines() -> None:
    path = write("line-3", 'extends = "jetson-orin-nano"\n[budget]\nlatency_p95 = "3 ms"\n')
    parent, line = load_profile("jetson-orin-nano"), resolve("line-3")
    assert line.path == path
    assert line.profile.budget.latency_p95_ms == 3
    assert line.profile.model_copy(update={"name": parent.name, "budget": parent.budget}) == parent
    assert line.file.modes() == load_file("jetson-orin-nano").modes()
    assert load_profile("line-3:15w").hardware == load_profile("jetson-orin-nano:15w").hardware
    assert "line-3" in profile_names()


def test_a_fact_is_replaced_whole() -> None:
    write("line", f'extends = "jetson-nano"\n[hardware.memory_mb]\nvalue = 2147\n{FACT}')
    fact = load_profile("line").hardware.memory_mb
    assert (fact.value, fact.source, fact.status) == (2147, "the test that wrote it", "assumed")
    write("line", 'extends = "jetson-nano"\n[hardware.memory_mb]\nvalue = 2147\n')
    message = refused("line")
    assert "line 3: hardware.memory_mb.source: missing" in message, "no figure keeps the source of another"


def test_what_is_omitted_is_not_inherited() -> None:
    write("line", 'extends = "jetson-nano"\nomit = ["modes", "hardware.power_w", "budget.size"]\n')
    line = load_profile("line")
    assert load_file("line").modes() == {}
    assert (line.hardware.power_w, line.budget.size) == (None, None)
    assert line.budget.memory == load_profile("jetson-nano").budget.memory


def test_omitting_what_is_not_there_is_a_mistake() -> None:
    write("line", 'extends = "jetson-nano"\nomit = [\n  "modes",\n  "hardware.powerw",\n]\n')
    assert "line 3: omit.1: there is no 'hardware.powerw' to leave out; did you mean 'power_w'?" in refused("line")


def test_a_mode_can_be_extended() -> None:
    write("line", 'extends = "jetson-nano:5w"\n')
    line = load_profile("line")
    assert line.hardware == load_profile("jetson-nano:5w").hardware
    assert (line.mode, load_file("line").modes()) == (None, {})


def test_a_chain_and_a_path_from_the_files_own_folder() -> None:
    write("base", 'extends = "cpu-x86"\n[budget]\nsize = "1 MB"\n', folder="elsewhere")
    write("middle", 'extends = "base.toml"\n[budget]\nmemory = "2 MB"\n', folder="elsewhere")
    path = write("top", 'extends = "middle.toml"\n[budget]\nlatency_p95 = "3 ms"\n', folder="elsewhere")
    budget = load_profile(str(path)).budget
    assert (budget.size, budget.memory, budget.latency_p95) == ("1 MB", "2 MB", "3 ms")
    assert [file.path.stem for file in load_file(str(path)).chain()] == ["top", "middle", "base", "cpu-x86"]


def test_a_file_that_extends_its_own_name_changes_the_one_it_hides() -> None:
    path = write("cpu-x86", 'extends = "cpu-x86"\n[budget]\nlatency_p95 = "7 ms"\n')
    target = resolve("cpu-x86", machine="x86_64")
    assert (target.path, target.here, target.profile.budget.latency_p95_ms) == (path, True, 7)
    assert target.file.chain()[1].path == SHIPPED / "cpu-x86.toml"


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"a": 'extends = "b"', "b": 'extends = "c"', "c": 'extends = "a"'}, ["profiles/c.toml, line 2", "circle", "a -> b -> c -> a"]),
        ({"a": 'extends = "a"'}, ["profiles/a.toml, line 2", "circle", "a -> a"]),
        ({"a": '\nextends = "b"', "b": 'extends = "jetsonnano"'}, ["profiles/b.toml, line 2", "a -> b -> jetsonnano", "'jetson-nano'?"]),
        ({"a": '\nextends = "jetson-orin-nano:75w"'}, ["profiles/a.toml, line 3", "has no mode '75w'; did you mean '7w'?"]),
        ({"a": 'extends = "no.toml"'}, ["profiles/a.toml, line 2", "there is no file profiles/no.toml", "a -> no.toml"]),
    ],
)
def test_a_parent_that_cannot_be_is_named_with_the_chain(files: Mapping[str, str], parts: list[str]) -> None:
    for name, text in files.items():
        write(name, text)
    message = refused("a")
    for part in parts:
        assert part in message


def test_no_key_of_a_file_outlives_a_bundle() -> None:
    """A bundle holds the whole profile: what a file extends may change or be gone when the bundle is read."""
    write("line", 'extends = "jetson-orin-nano"\n')
    profile = load_profile("line:7w")
    read = Profile.parse(json.loads(profile.model_dump_json()), "manifest.json")
    assert read == profile
    assert read.target == "line:7w"
    assert not {"extends", "omit", "modes"} & set(profile.model_dump())


TABLES = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8).filter(
    lambda value: isinstance(value, dict)
)


@given(TABLES, TABLES)
def test_merging_keeps_everything_of_the_child_and_what_it_does_not_name(parent: dict[str, Any], child: dict[str, Any]) -> None:
    both = merged(parent, child)
    assert set(both) == set(parent) | set(child)
    assert merged(both, child) == both
    assert merged({}, child) == child == merged(child, {})
    for key in set(parent) - set(child):
        assert both[key] == parent[key]


# Mistakes, with their lines

WRONG = """extends = "jetson-nano"
title = 5

[hardware.bandwith_gb_s]
value = 10.0
source = "the test that wrote it"
status = "assumed"

[hardware.bandwidth_gb_s]
source = "the test that wrote it"
status = "guessed"
value = -1.5

[budget]
memory = \"\"\"
300
MB\"\"\"
latency_p95 = "20 m"
[modes.5w.hardware]
gpu_mhz = { value = "fast", source = "the test that wrote it", status = "read" }
[modes."1 W"]
title = "1 W"
"""


def test_every_mistake_is_named_at_once_with_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    path = write("line", WRONG)
    ended = here(capfd, "profiles", "check", path)
    assert (ended.code, ended.out) == (2, "")
    first, *lines = ended.err.rstrip().splitlines()
    assert first == f"error: {path} is not a valid profile:"
    expected = [
        (3, "title", "valid string (found 5)"),
        (5, "hardware.bandwith_gb_s", "unknown key; did you mean 'bandwidth_gb_s'?"),
        (12, "hardware.bandwidth_gb_s.status", "'read', 'derived' or 'assumed' (found 'guessed')"),
        (13, "hardware.bandwidth_gb_s.value", "greater than 0 (found -1.5)"),
        (19, "budget.latency_p95", "write a number and one of ns, us, µs, ms, s, such as 8ms (found '20 m')"),
        (21, "modes.5w.hardware.gpu_mhz.value", "valid number (found 'fast')"),
        (22, "modes.1 W", "pattern"),
    ]
    assert len(lines) == len(expected)
    for line, (number, key, text) in zip(lines, expected, strict=True):
        assert line.startswith(f"  line {number}: {key}: "), line
        assert text in line


def test_a_mistake_is_looked_for_in_every_mode() -> None:
    """Each figure is right by itself; the profile is not."""
    write("line", 'extends = "jetson-nano"\nomit = ["modes"]\n[opset]\nvalue = 17\n' + FACT)
    assert "opset 17: the ONNX parser of TensorRT 8.2.1 reads up to 13" in refused("line")
    write("line", 'extends = "jetson-nano"\n[opset]\nvalue = 17\n' + FACT)
    assert refused("line").count("opset 17") == 1, "once, and not for every mode"
    write(
        "line", 'extends = "jetson-orin-nano"\n[modes.old]\ntitle = "old"\n[modes.old.hardware.compute_capability]\nvalue = "5.3"\n' + FACT
    )
    assert load_profile("line").name == "line"
    assert refused("line").count("\n") == 1
    assert "modes.old: precisions: a GPU of compute capability 5.3 has no INT8" in refused("line")
    with pytest.raises(InvalidFile, match=r"5\.3 has no INT8"):
        load_profile("line:old")


def test_a_mistake_of_an_extended_file_is_said_to_be_there() -> None:
    write("base", 'extends = "cpu-x86"\n\n[budget]\nsize = "big"\n')
    write("top", 'extends = "base"\nunknown = 1\n')
    message = refused("top")
    assert message.startswith("profiles/top.toml is not a valid profile:\n")
    assert "  line 3: unknown: unknown key" in message
    assert "  profiles/base.toml, line 5: budget.size: " in message


def test_what_is_missing_from_the_whole_is_said_with_the_nearest_line() -> None:
    write("line", f'format = 1\n[hardware.cores]\nvalue = 2\n{FACT}[match]\ndevice_tree = "Line"\n')
    message = refused("line")
    for part in ("  runtime: missing", "  opset: missing", "line 3: hardware.cpu: missing", "line 7: match.machine: missing"):
        assert part in message


def test_a_mistake_is_named_wherever_a_profile_is_read() -> None:
    write("line", 'extends = "cpu-x86"\n\nbudget.latency = "5 ms"\n')
    with pytest.raises(InvalidFile, match=r"line 4: budget\.latency: unknown key; did you mean 'latency_p95'\?"):
        resolve("line")


def test_one_broken_file_is_named_in_the_list(capfd: pytest.CaptureFixture[str]) -> None:
    write("line", "format = [\n")
    ended = here(capfd, "profiles")
    assert ended.code == 2
    assert "profiles/line.toml cannot be read as TOML" in ended.err


KEYS = st.sampled_from(["a", "b-c", '"d e"', "'f.g'", "h"])
VALUES = st.sampled_from(
    ["1", '"x = 1"', "[\n  1,\n  # note\n  [2]\n]", '"""\n[a]\nb = 1\n"""', "'''\n''", "{ k = 1, l = { m = 2 } }", "1979-05-27", "true"]
)


@given(
    st.lists(
        st.tuples(st.lists(KEYS, min_size=1, max_size=2), st.lists(st.tuples(KEYS, VALUES), max_size=3), st.integers(0, 2)), max_size=5
    )
)
def test_lines_of_keys_are_those_on_which_they_are_written(tables: list[tuple[list[str], list[tuple[str, str]], int]]) -> None:
    """Texts are built with the lines noted down; those that are no TOML (a key twice) are left out."""
    lines: list[str] = []
    noted: dict[tuple[str, ...], int] = {}
    for header, pairs, blank in tables:
        lines += ["# [not.a.table]"] * blank + [f"[{'.'.join(header)}] # comment"]
        table = tuple(key.strip("\"'") for key in header)
        noted[table] = len(lines)
        for key, value in pairs:
            noted[(*table, key.strip("\"'"))] = len(lines) + 1
            lines += f"{key} = {value}".split("\n")
    text = "\n".join(lines)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    for newline in ("\n", "\r\n"):
        found = KeyLines(text.replace("\n", newline))
        assert {path: found.of(path) for path in noted} == noted
        assert found.of(("nowhere",)) is None
        for path in noted:
            assert found.of((*path, 0, "nothing there")) is not None


# The schema for editors


def toml(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def test_the_schema_in_the_repository_is_what_the_records_say() -> None:
    assert json.loads((SHIPPED / FILE).read_text(encoding="utf-8")) == json_schema(), "run: python docs/generate.py"
    assert FILE.removesuffix(".json") not in profile_names()


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_fits_the_schema_and_names_it(name: str) -> None:
    text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"#:schema ./{FILE}"
    assert fits(toml(text), json_schema(), json_schema())


@pytest.mark.parametrize(
    "text",
    [
        'extends = "cpu-x86"\n',
        'name = "x"\nextends = "cpu-x86"\nbandwidth = 1\n',
        'name = "x"\nextends = "cpu-x86"\nmode = "5w"\n',
        'name = "X 1"\nextends = "cpu-x86"\n',
        'name = "x"\nextends = 5\n',
        'name = "x"\nextends = "cpu-x86"\nomit = "modes"\n',
        'name = "x"\ntitle = "x"\n',
        'name = "x"\nextends = "cpu-x86"\n[hardware]\nbandwith_gb_s = { value = 1.0, source = "the test itself", status = "read" }\n',
        'name = "x"\nextends = "cpu-x86"\n[hardware]\nbandwidth_gb_s = { value = -1.0, source = "the test itself", status = "read" }\n',
        'name = "x"\nextends = "cpu-x86"\n[hardware]\nbandwidth_gb_s = { value = 1.0, source = "the test itself" }\n',
        'name = "x"\nextends = "cpu-x86"\n[hardware]\nbandwidth_gb_s = { value = 1.0, source = "web", status = "read" }\n',
        'name = "x"\nextends = "cpu-x86"\n[hardware]\ncores = { value = 1.5, source = "the test itself", status = "read" }\n',
        'name = "x"\nextends = "cpu-x86"\n[precisions]\nvalue = ["fp8"]\nsource = "the test itself"\nstatus = "read"\n',
        'name = "x"\nextends = "cpu-x86"\n[modes.a]\ntitle = 5\n',
        'name = "x"\nextends = "cpu-x86"\n[modes."A B"]\ntitle = "A"\n',
        'name = "x"\nextends = "cpu-x86"\n[modes.a]\ntitle = "A"\nopset = 5\n',
    ],
)
def test_what_is_wrong_by_itself_does_not_fit_the_schema_and_is_refused(text: str) -> None:
    assert not fits(toml(text), json_schema(), json_schema())
    Path("x.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidFile):
        load_file("x.toml").check()


@pytest.mark.parametrize("name", [name for name in NAMES if "extends" not in toml((SHIPPED / f"{name}.toml").read_text(encoding="utf-8"))])
def test_a_file_that_extends_nothing_needs_every_required_key(name: str) -> None:
    data = toml((SHIPPED / f"{name}.toml").read_text(encoding="utf-8"))
    for key in ("title", "runtime", "opset", "match", "hardware", "budget"):
        assert not fits({k: v for k, v in data.items() if k != key}, json_schema(), json_schema()), key
    hardware = {key: value for key, value in data["hardware"].items() if key != "cores"}
    assert not fits(data | {"hardware": hardware}, json_schema(), json_schema())
    assert fits(data | {"hardware": hardware, "extends": "cpu-x86"}, json_schema(), json_schema())


def test_the_schema_explains_keys_and_is_written_for_an_editor(capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(here(capfd, "profiles", "schema").out) == json_schema()
    text = json.dumps(json_schema())
    assert '"null"' not in text, "TOML has no null"
    assert "10^9 bytes per second" in text
    undescribed = [key for key, part in json_schema()["properties"].items() if "description" not in part and "$ref" not in part]
    assert undescribed == ["format"]
    ended = here(capfd, "profiles", "schema", "-o", f"mine/{FILE}")
    assert (ended.code, ended.out) == (0, f"mine/{FILE}\n")
    assert here(capfd, "profiles", "schema", "-o", f"mine/{FILE}").code == 0, "an older schema is replaced"
    Path("thesis.json").write_text("{}", encoding="utf-8")
    ended = here(capfd, "profiles", "schema", "-o", "thesis.json")
    assert (ended.code, Path("thesis.json").read_text(encoding="utf-8")) == (2, "{}")
    assert "was not changed" in ended.err


# New ones, and how they are shown


@pytest.mark.parametrize("parent", [*NAMES, "jetson-orin-nano:15w"])
def test_a_new_profile_is_as_its_parent_and_ready_to_be_edited(parent: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "profiles", "new", "line-3", "--from", parent)
    assert (ended.code, ended.out) == (0, "profiles/line-3.toml\n")
    assert "tlx profiles check profiles/line-3.toml" in ended.err
    path, base = Path("profiles/line-3.toml"), load_profile(parent)
    assert here(capfd, "profiles", "check", path).code == 0
    kept = {"name": "line-3", "title": "line-3", "mode": None}
    assert load_profile("line-3") == base.model_copy(update=kept)
    assert here(capfd, "export", "--target", "line-3", "--dry-run").code == 0
    text = path.read_text(encoding="utf-8")
    assert fits(toml(text), json_schema(), json_schema())
    # all that can be overridden is there: with every comment put in, each figure is the same and has another source
    full = re.sub(r"^#(?: ((?:\[\w+\]$|\w+ = ).*)|(#:schema .*))$", r"\1\2", text, flags=re.MULTILINE)
    path.write_text(full, encoding="utf-8")
    assert "opset.source: String should have at least 8 characters" in refused("line-3"), "a source that was forgotten is no source"
    path.write_text(full.replace('source = ""', 'source = "the test that wrote it"'), encoding="utf-8")
    changed = load_profile("line-3")
    assert changed.hardware.cores.value == base.hardware.cores.value
    assert changed.opset.source == changed.hardware.memory_mb.source == changed.hardware.cores.source == "the test that wrote it"
    assert changed.match == base.match
    assert full.startswith(f"#:schema ./{FILE}\n")
    assert f"tlx profiles schema -o profiles/{FILE}" in full


def test_nothing_is_overwritten(capfd: pytest.CaptureFixture[str]) -> None:
    path = write("line", "precious\n")
    ended = here(capfd, "profiles", "new", "line", "--from", "cpu-x86")
    assert (ended.code, ended.out) == (2, "")
    assert "profiles/line.toml exists" in ended.err
    assert "precious" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("Line --from cpu-x86", "'Line' is not a valid name"),
        ("../line --from cpu-x86", "'../line' is not a valid name"),
        ("line --from cpu_x86", "did you mean 'cpu-x86'?"),
        ("line --from jetson-nano:50w", "has no mode '50w'"),
        ("line --from profiles/x.toml", "takes the name of a profile"),
        ("line", "Missing option '--from'"),
    ],
)
def test_a_new_profile_that_cannot_be(arguments: str, part: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "profiles", "new", *arguments.split())
    assert (ended.code, ended.out) == (2, "")
    assert part in ended.err
    assert not list(Path().rglob("*")), "nothing was written"


@pytest.mark.parametrize("name", ["cpu-x86", "jetson-agx-orin", "jetson-agx-orin:30w"])
def test_every_figure_is_shown_with_status_and_source(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, profile = here(capfd, "profiles", "show", name).out, load_profile(name)
    assert text.splitlines()[0] == profile.title
    for key, fact in profile.hardware:
        if fact is not None:
            assert f"hardware.{key} = {fact.value}  [{fact.status}: {fact.source}]" in text
    for file in load_file(profile.name).chain():
        assert str(file.path) in text
    for mode, title in load_file(profile.name).modes().items():
        assert f"power mode {profile.name}:{mode} = {title}" in text
    assert Profile.parse(json.loads(here(capfd, "profiles", "show", name, "--json").out), "shown") == profile


def test_the_list_shows_the_power_modes(capfd: pytest.CaptureFixture[str]) -> None:
    found = {item["name"]: item for item in json.loads(here(capfd, "profiles", "--json").out)}
    assert list(found) == list(profile_names())
    assert found["jetson-nano"]["modes"] == ["maxn", "5w"]
    assert found["cpu-x86"]["modes"] == []
    text = here(capfd, "profiles").out
    [line] = [line for line in text.splitlines() if line.startswith("jetson-nano ")]
    assert line.split()[-2:] == ["maxn", "5w"]
    [line] = [line for line in text.splitlines() if line.startswith("jetson-agx-xavier ")]
    assert line.split()[-4:] == ["maxn", "10w", "15w", "+5"]
    assert max(map(len, text.splitlines())) <= 100
