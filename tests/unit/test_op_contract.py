"""Every op is complete: walks the op list of the .td files and fails by the name of what is missing.

The steps are those of docs/adding-an-op.md. An op may be open in a step where docs/status.md says so.
"""

import json
import re

import pytest

import iam
from iam._tools import install_root

OP_LIST = install_root() / "mlir" / "iam_ops.json"
DIALECT = json.loads(OP_LIST.read_text(encoding="utf-8"))
OPS = DIALECT["ops"]
SOURCE = re.compile(r"arXiv:|doi:|https://|[Oo]riginal to IAM")

each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op["name"])


def family(op):
    return op["name"].split(".")[1]


def text_of(paths):
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(paths))


@pytest.fixture(scope="module")
def spec(repo_root):
    """Sections of docs/spec.md by heading."""
    text = (repo_root / "docs" / "spec.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    return dict(section.split("\n", 1) for section in sections)


@pytest.fixture(scope="module")
def status(repo_root):
    """Rows of the op table of docs/status.md: op -> column -> cell."""
    lines = (repo_root / "docs" / "status.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header = next(row for row in rows if row[0] == "op")
    return {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows if row[0].startswith("`iam.")}


@pytest.fixture(scope="module")
def lit(repo_root):
    """Folder of mlir/test -> the text of its tests by file name."""

    def tests(folder):
        return {
            path.name: path.read_text(encoding="utf-8") for path in (repo_root / "mlir/test" / folder).glob("*.mlir")
        }

    return tests


def mentions(text, name):
    return re.search(re.escape(name) + r"(?![\w.])", text) is not None


def test_the_list_is_the_dialect():
    """What is installed is what Python has classes for."""
    from iam.mlir.dialects import iam as dialect

    classes = {value.OPERATION_NAME for value in vars(dialect).values() if hasattr(value, "OPERATION_NAME")}
    assert {op["name"] for op in OPS} == classes
    assert len(OPS) > 20


@each_op
def test_description(op):
    have = {
        "summary": bool(op["summary"]) and not op["summary"].endswith("."),
        "example": bool(op["examples"]),
        "link to the spec": f"docs/spec.md#{op['name'].replace('.', '')}" in op["description"],
        "source": SOURCE.search(op["description"]) is not None,
    }
    assert all(have.values()), f"{op['name']} lacks in ODS: {[what for what, ok in have.items() if not ok]}"


@pytest.mark.parametrize("entry", [*OPS, *DIALECT["types"]], ids=lambda entry: entry["name"])
def test_examples_parse(entry):
    """The examples of ODS are programs: they parse, verify, and show the op or type."""
    from iam.mlir import ir

    assert entry["examples"], f"{entry['name']} has no example"
    shown = "!" + entry["name"] if entry in DIALECT["types"] else entry["name"]
    for example in entry["examples"]:
        with ir.Context():
            module = ir.Module.parse(example)
            assert module.operation.verify()
            assert mentions(str(module), shown), f"the example of {entry['name']} does not show it"


@each_op
def test_specification(op, spec):
    assert op["name"] in spec, f"docs/spec.md has no section {op['name']}"
    section = spec[op["name"]]
    label = op["name"].removeprefix("iam.").replace(".", "_")
    have = {part: f"**{part}.**" in section for part in ("Semantics", "Inputs", "Constraints", "Source", "Oracle")}
    have |= {f"input {name}": f"`{name}`" in section for name in op["operands"]}
    have["labels"] = f"`{label}_i1`" in section and f"`{label}_c1`" in section
    assert all(have.values()), f"docs/spec.md: {op['name']} lacks {[what for what, ok in have.items() if not ok]}"
    assert SOURCE.search(section)


def test_specification_has_no_other_ops(spec):
    """Sections of ops that are gone."""
    assert {title for title in spec if re.match(r"iam\.\w+\.", title)} == {op["name"] for op in OPS}


@each_op
def test_oracle(op, spec):
    module = getattr(iam.reference, family(op), None)
    name = op["name"].rsplit(".", 1)[1]
    oracle = getattr(module, name, None)
    assert callable(oracle), f"iam.reference.{family(op)}.{name} is missing"
    assert name in module.__all__
    assert ">>>" in oracle.__doc__, f"iam.reference.{family(op)}.{name} has no example"
    assert f"`iam.reference.{family(op)}.{name}`" in spec[op["name"]]


@each_op
def test_lit_tests_of_the_dialect(op, lit):
    files = lit("Dialect/IAM")
    assert mentions(files[f"{family(op)}_ops.mlir"], op["name"]), f"{op['name']} is not in {family(op)}_ops.mlir"
    if op["verifier"]:
        assert mentions(files[f"{family(op)}_invalid.mlir"], f"'{op['name']}' op"), (
            f"{op['name']} has a verifier and no error in {family(op)}_invalid.mlir"
        )
    if op["folds"]:
        assert mentions(files[f"{family(op)}_folding.mlir"], op["name"]), (
            f"{op['name']} folds, but is not in {family(op)}_folding.mlir"
        )


@each_op
def test_constraints_are_tested(op, spec, repo_root):
    """Each constraint of the spec that ODS does not check itself is named where it is checked."""
    labels = re.findall(r"^\* `(\w+_c\d+)`: (.*)$", spec[op["name"]], flags=re.MULTILINE)
    assert labels, f"{op['name']} has no constraints in docs/spec.md"
    tested = text_of((repo_root / "mlir/test/Dialect/IAM").glob("*_invalid.mlir"))
    missing = [label for label, text in labels if "(ODS)" not in text and not mentions_label(tested, label)]
    assert not missing, f"{op['name']}: no lit test is named after {missing}"


def mentions_label(text, label):
    return re.search(rf"{label}(?!\d)", text) is not None


@each_op
def test_status_row(op, status):
    assert op["name"] in status, f"docs/status.md has no row for {op['name']}"
    row = status[op["name"]]
    assert all(row.values()), f"docs/status.md: empty cell in the row of {op['name']}"
    assert row["IR"] == row["verifier"] == row["oracle"] == "✓"


@each_op
def test_status_of_folds(op, status):
    cell = status[op["name"]]["fold"]
    assert cell in ("✓", "—", "open")
    assert (cell == "✓") == op["folds"], f"docs/status.md says {cell} of the folds of {op['name']}; ODS: {op['folds']}"


def test_status_has_no_other_ops(status):
    assert set(status) == {op["name"] for op in OPS}


@each_op
def test_lowering(op, lit, status):
    """A lowering and its test, or an error at the op's location and its test."""
    lowered = status[op["name"]]["lowering"] == "✓"
    files = lit("Conversion")
    refused = mentions(files["iam_to_runtime_invalid.mlir"], f"'{op['name']}' op is not lowered yet")
    assert lowered != refused, f"docs/status.md and iam_to_runtime_invalid.mlir disagree on {op['name']}"
    if lowered:
        files |= lit("Transforms")  # iam.attr.grad is written out before
        tested = "\n".join(text for name, text in files.items() if "invalid" not in name)
        assert mentions(tested, op["name"]), f"no test in mlir/test/Conversion or Transforms lowers {op['name']}"
        assert status[op["name"]]["kernel"] == "✓"


@each_op
def test_examples_lower(op, status):
    """The compiler takes the op's example to LLVM, or says at its location that it does not."""
    from iam.mlir import ir, passmanager

    for example in op["examples"]:
        with ir.Context(), ir.Location.unknown():
            module = ir.Module.parse(example)
            manager = passmanager.PassManager.parse("builtin.module(iam-to-llvm)")
            if status[op["name"]]["lowering"] == "✓":
                manager.run(module.operation)
                assert "llvm.func" in str(module)
                assert "iam.clt" not in str(module)
                continue
            with pytest.raises(ir.MLIRError) as caught:
                manager.run(module.operation)
            refused = [str(error) for error in caught.value.error_diagnostics]
            assert any(f"'{op['name']}' op is not lowered yet" in error for error in refused), refused


@each_op
def test_python_call(op, status):
    """The call that docs/status.md names exists; or it says "open", which takes a lowering that is open, too."""
    cell = status[op["name"]]["Python"]
    if cell == "open":
        assert status[op["name"]]["lowering"] != "✓"
        return
    names = re.findall(r"`([\w.]+)`", cell)
    if not names:
        assert re.search(r"`\w+ [-+] \w+`", cell), f"docs/status.md: no call for {op['name']}"
        return
    owner = iam
    for name in names:
        *path, last = name.removeprefix("iam.").split(".")
        if path:  # `SparseFeatures.set`, `scale`: the owner holds for the names that follow
            owner = iam
            for part in path:
                owner = getattr(owner, part)
        assert callable(getattr(owner, last, None)), f"docs/status.md: {name} of {op['name']} does not exist"


@pytest.mark.parametrize("enum", DIALECT["enums"], ids=lambda enum: enum["name"])
def test_enumerations_reach_python(enum):
    from iam.mlir.dialects import iam as dialect

    generated = getattr(dialect, enum["name"])
    assert {case["text"]: case["value"] for case in enum["cases"]} == {str(case): case.value for case in generated}
