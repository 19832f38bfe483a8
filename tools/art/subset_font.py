"""Cuts the font of the course's figures, assets/fonts/NotoSansSC-subset.ttf, out of Noto Sans SC.

Two packages bring the whole font with its licence and a list of words with their frequencies:

    pip install --target build/font --no-deps zhplot==1.0.0 jieba==0.42.1
    python -m tools.art.subset_font build/font

Kept are the Chinese characters of the course and then the most frequent ones, as many as 500 kB hold.
Latin text needs none of this: matplotlib draws it with DejaVu Sans.
"""

import shutil
import sys
from collections import Counter
from pathlib import Path

from fontTools import subset

from helpers import ROOT

FONTS = ROOT / "assets" / "fonts"
# The terms, what the tiny models were trained on, and all that a figure's labels can be taken from.
COURSE_TEXT = ("assets/terms.csv", "helpers/lessons/texts.toml", "notebooks/source/*.py", "helpers/**/*.py")
PUNCTUATION = "，。！？：；、（）《》〈〉「」『』【】“”‘’…—～·￥％＋－×÷＝"
FULL_WIDTH = "".join(chr(code) for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)))
CHARACTERS = 1850  # with these the file stays under 500 kB


def is_chinese(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


def characters(packages: Path) -> list[str]:
    """Those of the course first, then by frequency."""
    files = [file for pattern in COURSE_TEXT for file in sorted(ROOT.glob(pattern))]
    own = set(filter(is_chinese, "".join(file.read_text(encoding="utf-8") for file in files)))
    frequency: Counter[str] = Counter()
    for line in (packages / "jieba" / "dict.txt").read_text(encoding="utf-8").splitlines():
        word, count, _ = line.split(" ")
        for character in filter(is_chinese, word):
            frequency[character] += int(count)
    others = [character for character, _ in frequency.most_common() if character not in own]
    return [*PUNCTUATION, *FULL_WIDTH, *sorted(own), *others][:CHARACTERS]


def main(packages: Path) -> None:
    source = packages / "zhplot" / "fonts"
    options = subset.Options()
    options.hinting, options.layout_features, options.notdef_outline = False, [], True
    options.drop_tables += ["BASE", "GDEF", "GPOS", "GSUB", "STAT", "vhea", "vmtx"]
    font = subset.load_font(source / "NotoSansSC-Regular.ttf", options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(characters(packages)))
    subsetter.subset(font)
    for name_id, name in {1: "Noto Sans SC Subset", 4: "Noto Sans SC Subset", 6: "NotoSansSC-Subset"}.items():
        font["name"].setName(name, name_id, 3, 1, 0x409)
    font["name"].names = [record for record in font["name"].names if record.nameID not in (3, 16, 17)]
    FONTS.mkdir(exist_ok=True)
    font.save(FONTS / "NotoSansSC-subset.ttf")
    shutil.copy(source / "OFL.txt", FONTS / "OFL.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
