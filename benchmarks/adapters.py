"""What each adapter trains of a base: parameters, share, the size of its file, the memory that training needs for it.

python benchmarks/adapters.py                                          # the tables of docs/how-to/adapting.md
python benchmarks/adapters.py --base "sam2(size=nano, lift=slices)"

Prints a Markdown table. A base whose weights are not here is left out, which is said. "training" is what an optimiser
with two moments keeps beside the net (gradient, two moments: 12 bytes a trained parameter); activations come on top.
"""

from __future__ import annotations

import argparse
import sys

from safetensors.torch import save

from segwise import assemble, catalog
from segwise.errors import SpecError, WeightsError
from segwise.nets.tuned import share, tuned

BASES = ("litemedsam", "sam(size=nano)")
MORE = {"lora": ("lora(targets=all-linear, place=both)",), "ma-sam": ("ma-sam(decoder=false)",)}
BYTES = 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", action="append", help="a model; may be given several times")
    bases = parser.parse_args().base or list(BASES)
    for base in bases:
        try:
            n = share(assemble.segmenter(base).parts.net).all
        except WeightsError as error:
            print(f"{base} is left out: {error}", file=sys.stderr)
            continue
        print(f"\n`{base}`, {n:,} parameters:\n")
        print("| adapter | trained | share | file | training |\n|---|---|---|---|---|")
        for name in catalog.names("adapters"):
            for adapter in (name, *MORE.get(name, ())):
                print(line(base, adapter, n))
    return 0


def line(base: str, adapter: str, n: int) -> str:
    """A row of the table."""
    try:
        net = assemble.segmenter(f"{base}+{adapter}").parts.net
    except SpecError as error:
        return f"| `{adapter}` | – | – | – | {error} |"
    found = share(net)
    size = len(save({key: value.contiguous() for key, value in tuned(net).items()}))
    share_of = f"{100 * found.trained / n:.2f} %"
    return f"| `{adapter}` | {found.trained:,} | {share_of} | {bytes_of(size)} | {bytes_of(BYTES * found.trained)} |"


def bytes_of(n: int) -> str:
    """In kB or MB."""
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"


if __name__ == "__main__":
    sys.exit(main())
