#!/usr/bin/env python3
"""What made the model say that? Tokens and features behind one answer rather than another, in one compiled program.

    python examples/feature_effects.py
    python examples/feature_effects.py --text "She put the kettle on to make some" \
        --against "She put the shovel down to make some" --answers " tea" " room"

Tokens are credited along the path from another text's activations (of as many tokens), features by their absence. The program
starts where the coder sits. ``study.explain(prompt, other)`` shows what the compiler made of it: the blocks below the site run
once, all features that are ablated go through the model together, and each is a delta of one feature instead of two decodes.
"""

import argparse

import numpy as np

import iam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="The capital of France is the city of Paris, and the capital of Italy is")
    parser.add_argument("--against", default="The capital of France is the city of Paris, and the capital of Spain is")
    parser.add_argument("--answers", nargs=2, default=(" Rome", " Madrid"), metavar=("THIS", "THAT"))
    parser.add_argument("--features", type=int, default=8, help="how many to ablate: the last token's strongest")
    parser.add_argument("--steps", type=int, default=8, help="points of the path of integrated gradients")
    args = parser.parse_args()

    model = iam.LanguageModel("smollm2")
    sae = iam.SAE.from_pretrained("iam", "smollm2-135m-resid_post-15")
    prompt, other = model.on(args.text), model.on(args.against)
    if prompt.rows != other.rows:
        parser.error(f"--text has {prompt.rows} tokens and --against {other.rows}: they are compared token by token")
    answers = [model.tokens(answer)[0].tolist() for answer in args.answers]
    if any(len(answer) != 1 for answer in answers):
        parser.error(f"--answers takes one token each, got {answers}; words usually begin with a space")
    answers = [token for (token,) in answers]

    last = sae.encode(prompt.run(to=sae.site)[0, -1:])
    strongest = last.values[0].argsort(descending=True)[: args.features]
    features = last.indices[0, strongest].tolist()

    def preference(prompt, h):
        """How much more the model says this than that after the last token, from the activations at the coder's site."""
        logits = prompt.run(h, from_=sae.site, to="logits", tokens=answers, positions=[-1])
        return logits[:, 0] - logits[:, 1]

    @iam.jit
    def study(prompt, other):
        h, start = prompt.run(to=sae.site), other.run(to=sae.site)
        attributions = iam.ops.integrated_gradients(lambda x: preference(prompt, x), h, start, steps=args.steps)
        f = sae.encode(h)
        without = [preference(prompt, h + sae.decode(f.ablate(j)) - sae.decode(f)) for j in features]
        return preference(prompt, h), preference(other, start), attributions, without

    said, before, attributions, without = study(prompt, other)
    said, before = float(said[0]), float(before[0])
    print("The logit of {!r} above that of {!r}:".format(*args.answers))
    print(f"  {said:+8.2f} after {args.text!r}")
    print(f"  {before:+8.2f} after {args.against!r}")

    print(f"\nWhat each token of the first adds, by integrated gradients of {args.steps} points at {sae.site}:")
    by_token = np.asarray(attributions).reshape(-1, sae.cfg.d_in).sum(-1)
    for token, part in zip(model.token_strings(args.text), by_token, strict=True):
        print(f"  {part:+8.2f}  {token!r}")
    print(f"  {by_token.sum():+8.2f}  in all, of {said - before:+.2f}")

    print("\nAfter it, without one feature (at all tokens; what the coder does not explain stays):")
    for j, value, changed in zip(features, last.values[0, strongest].tolist(), without, strict=True):
        changed = float(changed[0])
        print(f"  {changed:+8.2f}  #{j}, active with {value:.1f} ({changed - said:+.2f})")


if __name__ == "__main__":
    main()
