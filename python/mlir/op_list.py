"""Build step: the ops, types and enumerations of the dialect as a small JSON file, read off the .td files.

    python op_list.py OUTPUT LLVM_TBLGEN -I DIR ... IAMOps.td

The file is installed as ``iam/mlir/iam_ops.json``, so that an installed package knows its ops.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

DIALECT = "IAM_Dialect"


def main(output, tblgen, *arguments):
    dump = subprocess.run([tblgen, "--dump-json", *arguments], check=True, capture_output=True, text=True).stdout
    records = json.loads(dump)
    kinds = records["!instanceof"]

    def named(dag):
        """Name and definition of each argument."""
        return [(name, argument["def"]) for argument, name in dag["args"]]

    attributes = set(kinds["AttrConstraint"])
    ops = []
    for key in kinds["Op"]:
        op = records[key]
        if op["opDialect"]["def"] != DIALECT:
            continue
        arguments = named(op["arguments"])
        ops.append(
            {
                "name": f"iam.{op['opName']}",
                "class": key.removeprefix("IAM_"),
                "summary": op["summary"],
                "description": op["description"],
                "examples": examples(op["description"]),
                "operands": [name for name, definition in arguments if definition not in attributes],
                "attributes": [name for name, definition in arguments if definition in attributes],
                "results": [name for name, _ in named(op["results"])],
                "verifier": bool(op["hasVerifier"]),
                "folds": bool(op["hasFolder"] or op["hasCanonicalizer"] or op["hasCanonicalizeMethod"]),
            }
        )
    types = [
        {
            "name": f"iam.{records[key]['mnemonic']}",
            "summary": records[key]["summary"],
            "description": records[key]["description"],
            "examples": examples(records[key]["description"]),
        }
        for key in kinds["TypeDef"]
        if records[key]["dialect"]["def"] == DIALECT
    ]
    enums = [
        {
            "name": records[key]["className"],
            "summary": records[key]["summary"],
            "cases": [
                {"symbol": case["symbol"], "value": case["value"], "text": case["str"]}
                for case in (records[c["def"]] for c in records[key]["enumerants"])
            ],
        }
        for key in kinds["EnumInfo"]
        if key.startswith("IAM_")
    ]
    by_name = {"key": lambda entry: entry["name"]}
    content = {"ops": sorted(ops, **by_name), "types": sorted(types, **by_name), "enums": sorted(enums, **by_name)}
    Path(output).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def examples(description):
    lines = description.splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    text = "\n".join(line[min(indents, default=0) :] for line in lines)
    return re.findall(r"```mlir\n(.*?)```", text, flags=re.DOTALL)


if __name__ == "__main__":
    main(*sys.argv[1:])
