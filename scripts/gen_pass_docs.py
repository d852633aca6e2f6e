"""Write docs/passes/: a page for each pass, from its ODS text, with an example that a lit test runs.

    python scripts/gen_pass_docs.py [--check]

The text, the options and the statistics are those of the Passes.td files. An example is a function of a lit test, and what
iam-opt makes of it today. ``--check`` writes nothing and fails where a page is not current.
"""

import argparse
import importlib.metadata
import pathlib
import re
import subprocess
import sys

from iam._tools import install_root

ROOT = pathlib.Path(__file__).resolve().parents[1]
PASSES = ("mlir/include/iam/Dialect/IAM/Transforms/Passes.td", "mlir/include/iam/Conversion/Passes.td")
EXAMPLES = {  # pass -> lit test below mlir/test, its functions, what runs after the pass
    "iam-clt-fusion": ("Transforms/clt_fusion_encode.mlir", ["topk"], ()),
    "iam-verify-discharge": ("Transforms/verify_discharge.mlir", ["proved"], ()),
    "iam-demand-driven-encode": ("Transforms/demand_driven_encode.mlir", ["delta"], ()),
    "iam-differentiate": ("Transforms/differentiate.mlir", ["logit", "model"], ("symbol-dce", "canonicalize", "cse")),
    "iam-attribution-cache": ("Transforms/attribution_cache.mlir", ["prefix"], ()),
    "iam-hoist-weights": ("Transforms/hoist_weights.mlir", ["main"], ()),
    "iam-policy-projection": ("Transforms/policy_projection.mlir", ["one_pass"], ()),
    "iam-to-linalg": ("Conversion/iam_to_linalg.mlir", ["steer_add"], ()),
    "iam-reuse-operands": ("Conversion/reuse_operands.mlir", ["runtime_result"], ()),
    "iam-linalg-to-loops": ("Conversion/linalg_to_loops.mlir", ["elementwise"], ("canonicalize",)),
    "iam-to-runtime": ("Conversion/iam_to_runtime_clt.mlir", ["topk"], ()),
    "iam-prepare-entry-points": ("Conversion/prepare_entry_points.mlir", ["returned_twice"], ()),
    "iam-simplify-deallocations": ("Conversion/simplify_deallocations.mlir", ["allocations"], ()),
    "iam-prepare-for-llvm": ("Conversion/prepare_for_llvm.mlir", ["one"], ()),
    "iam-to-stablehlo": ("Conversion/iam_to_stablehlo_clt.mlir", ["topk"], ("cse",)),
}
OPTIONS = {"iam-to-stablehlo": "{rows=3}"}


def descriptions():
    """Pass -> its Markdown, as mlir-tblgen makes it of ODS."""
    try:
        tools, headers = (importlib.metadata.distribution(f"xtc-mlir-{part}") for part in ("tools", "dev"))
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f"gen_pass_docs: {error.name}, which the build needs, is not installed here")
    tblgen, include = tools.locate_file("mlir/bin/mlir-tblgen"), headers.locate_file("mlir/include")
    found = {}
    for path in PASSES:
        command = [tblgen, "-gen-pass-doc", "-I", include, "-I", ROOT / "mlir/include"]
        text = subprocess.run([*command, ROOT / path], check=True, capture_output=True, text=True).stdout
        for name, body in re.findall(r"^### `-([\w-]+)`\n(.*?)(?=^### `-|\Z)", text, flags=re.MULTILINE | re.DOTALL):
            found[name] = body.strip()
    return found


def function(text, name):
    """A function of a lit test, without what checks it."""
    found = re.search(rf"^func\.func (?:private )?@{name}\(.*?^}}\n", text, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"gen_pass_docs: there is no function @{name}")
    lines = found.group().splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"\s*// (CHECK|RUN|expected)", line))


def example(name):
    """Before and after."""
    path, functions, then = EXAMPLES[name]
    text = (ROOT / "mlir/test" / path).read_text(encoding="utf-8")
    before = "".join(function(text, one) for one in functions)
    maps = [line for line in re.findall(r"^#\w+ = .*\n", text, flags=re.MULTILINE) if line.split()[0] in before]
    before = "".join(maps) + before
    pipeline = ",".join([name + OPTIONS.get(name, ""), *then])
    command = [install_root() / "bin" / "iam-opt", "-", f"--pass-pipeline=builtin.module({pipeline})"]
    after = subprocess.run(command, input=before, check=True, capture_output=True, text=True).stdout
    return path, before, after, then


def page(name, body):
    path, before, after, then = example(name)
    also = f", and then `{'`, `'.join(then)}`" if then else ""
    body = re.sub(r"^####", "##", body, flags=re.MULTILINE)
    return (
        f"# {name}\n\n<!-- Made of Passes.td and a lit test by scripts/gen_pass_docs.py; change those, and run it. -->\n\n"
        f"{body}\n\n## Example\n\nFrom `mlir/test/{path}`:\n\n```mlir\n{before.strip()}\n```\n\n"
        f"After `{name}`{also}:\n\n```mlir\n{after.strip()}\n```\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not current")
    options = parser.parse_args()
    folder = ROOT / "docs" / "passes"
    found = descriptions()
    if missing := sorted(found.keys() ^ EXAMPLES.keys()):
        sys.exit(f"gen_pass_docs: passes and examples differ in {', '.join(missing)}: add an example to EXAMPLES")
    pages = {folder / f"{name}.md": page(name, body) for name, body in found.items()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in folder.glob("*.md") if path not in pages]
    if options.check:
        if stale:
            sys.exit(f"not current, run scripts/gen_pass_docs.py: {', '.join(path.name for path in stale)}")
        return
    folder.mkdir(exist_ok=True)
    for path in stale:
        if path in pages:
            path.write_text(pages[path], encoding="utf-8")
        else:
            path.unlink()
    print(f"{len(pages)} pages in docs/passes, {len(stale)} of them changed")


if __name__ == "__main__":
    main()
