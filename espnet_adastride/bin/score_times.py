"""Compare word times with reference times: errors of word starts and ends.

    python -m espnet_adastride.bin.score_times --ctm adaptive/words.ctm \
        uniform/words.ctm --ref librispeech_alignments

The reference is a folder of ``UTTERANCE.TextGrid`` files (with a tier ``words``, as in
the LibriSpeech alignments) or another CTM. Utterances whose words differ from the
reference are left out and counted; its <unk> stands for any one word, whose own times
are not compared. What aligners write for silence (SIL, <eps> ...) is ignored. Several
CTMs are compared on the utterances they share.
"""

import argparse
import json

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.errors import UserError, counted
from espnet_adastride.files import check_file, write_text
from espnet_adastride.timing.transcripts import (
    UNKNOWN_WORD,
    compare_times,
    read_ctm,
    read_reference,
    spoken,
    summarise_errors,
)


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--ctm", nargs="+", required=True, help="one or more CTM files of words"
    )
    parser.add_argument("--ref", required=True, help="folder of TextGrids, or a CTM")
    parser.add_argument("--output", help="JSON output file")
    return parser


def score(ctms, ref) -> dict:
    """Return {ctm: numbers}; times in ms."""
    reference = read_reference(ref)
    all_words = {ctm: spoken(read_ctm(ctm)) for ctm in ctms}
    for path, words in ((ref, reference), *all_words.items()):
        if not words:
            raise UserError(f"{path}: no words in it; give a CTM of words")
    errors = {ctm: compare_times(words, reference) for ctm, words in all_words.items()}
    every = set.union(*map(set, all_words.values()))
    usable = set.intersection(
        *(
            set(words) - set(errors[ctm].different) - set(errors[ctm].missing)
            for ctm, words in all_words.items()
        )
    )
    results = {}
    for ctm, words in all_words.items():
        whole = errors[ctm]
        common = compare_times({k: words[k] for k in sorted(usable)}, reference)
        if usable and not common.words:
            raise UserError(
                f"{ref}: every word of {shorten(sorted(usable))} is {UNKNOWN_WORD}, "
                "whose times are not compared; give a reference with the words"
            )
        if not common.words:
            raise UserError(
                f"{ctm}: no utterance with the words of {ref} "
                f"(other words: {shorten(whole.different) or 'none'}; "
                f"without reference: {shorten(whole.missing) or 'none'})"
            )
        results[ctm] = {
            "utterances": len(usable),
            "words": common.words,
            "start": summarise_errors(common.starts),
            "end": summarise_errors(common.ends),
            "different": whole.different,
            "missing": whole.missing,
            "absent": sorted(every - set(words)),
        }
    return results


def format_table(results: dict) -> str:
    """Return the numbers as a table, one CTM per row."""
    width = max(len(ctm) for ctm in results)
    lines = [
        f"{'':{width}}          starts, ms             ends, ms",
        f"{'':{width}}   words  median   90 %    bias  median   90 %    bias",
    ]
    for ctm, row in results.items():
        numbers = "".join(
            f" {one['median']:7.0f}{one['p90']:7.0f}{one['bias']:+8.0f}"
            for one in (row["start"], row["end"])
        )
        lines.append(f"{ctm:{width}} {row['words']:7d}{numbers}")
    return "\n".join(lines)


@command(get_parser)
def main(args) -> None:
    if args.output:
        check_file(args.output, "--output", [*args.ctm, args.ref])
    results = score(args.ctm, args.ref)
    if args.output:
        write_text(args.output, json.dumps(results, indent=1) + "\n")
    print(format_table(results))
    for ctm, row in results.items():
        for what, keys in (
            ("with words that differ from the reference", row["different"]),
            ("without a reference", row["missing"]),
            ("in another CTM and not in this one", row["absent"]),
        ):
            if keys:
                print(
                    f"{ctm}: {counted(len(keys), 'utterance')} {what}: {shorten(keys)}"
                )


if __name__ == "__main__":
    main()
