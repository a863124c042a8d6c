"""An exported model beside the same model through ESPnet, on the same recordings.

    python benchmarks/export.py --model exp/asr_... --exported model.onnx \
        --data_dir dump/raw/test

Each way is a process of its own, with one thread, and reads the same files: seconds to
the first transcript, most memory, real-time factor without the start, WER, and how far
texts and word times are from those of the first way. Times are of one run.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def one_way(model: str, recordings: str) -> None:
    """Transcribe in this process; print what was measured, as JSON."""
    begin = time.perf_counter()
    if model.endswith(".onnx"):
        from espnet_adastride.deployment.recogniser import OnnxModel, OnnxTranscriber

        transcriber = OnnxTranscriber(OnnxModel(model, threads=1))
    else:
        import torch

        torch.set_num_threads(1)
        from espnet_adastride.transcribe import Transcriber

        transcriber = Transcriber(model)
    paths = json.loads(Path(recordings).read_text())
    transcriber(paths[0])
    start = time.perf_counter() - begin
    begin, heard, seconds = time.perf_counter(), [], 0.0
    for path in paths:
        result = transcriber(path)
        seconds += result.duration
        words = [(w.text, w.start, w.end) for w in result.words]
        heard.append({"text": result.text, "words": words})
    spent = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = {"start": start, "rtf": spent / seconds, "peak": peak}
    print(json.dumps({**measured, "heard": heard, "torch": "torch" in sys.modules}))


def main() -> None:
    """Run every way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder, or packed .zip")
    parser.add_argument("--exported", nargs="+", required=True, help=".onnx files")
    parser.add_argument("--data_dir", required=True, help="with wav.scp and text")
    parser.add_argument("--most", type=int, help="recordings at most")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(args.data_dir)
    import tempfile

    from espnet_adastride.corpora.kaldi import read_scp, read_text
    from espnet_adastride.evaluation.scoring import utterance_errors, words
    from espnet_adastride.report.tables import markdown_table

    pairs = list(read_scp(folder / "wav.scp").items())[: args.most]
    texts = read_text(folder / "text")
    references = {key: texts[key] for key, _ in pairs}

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([path for _, path in pairs], file)
        file.flush()
        first, rows = None, []
        for model in (args.model, *args.exported):
            command = [sys.executable, __file__, "--one", model, file.name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found = json.loads(done.stdout.decode().splitlines()[-1])
            heard = found["heard"]
            first = first or heard
            hypotheses = {key: one["text"] for (key, _), one in zip(pairs, heard)}
            errors, counts = utterance_errors(references, hypotheses, words)
            equal = sum(a["text"] == b["text"] for a, b in zip(first, heard))
            apart = max(
                (
                    1000 * max(abs(v[1] - w[1]), abs(v[2] - w[2]))
                    for a, b in zip(first, heard)
                    if a["text"] == b["text"]
                    for v, w in zip(a["words"], b["words"])
                ),
                default=0.0,
            )
            row = [Path(model).name, f"{found['start']:.1f}", f"{found['peak']:.0f}"]
            wer = 100 * errors.sum() / counts.sum()
            row += [f"{found['rtf']:.3f}", f"{wer:.2f} %", f"{equal} of {len(heard)}"]
            rows.append([*row, f"{apart:.1f}"])
    names = "model|start, s|memory, MiB|RTF|WER|texts equal|times, ms".split("|")
    print(markdown_table(names, rows), end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one_way(*sys.argv[2:4])
    else:
        main()
