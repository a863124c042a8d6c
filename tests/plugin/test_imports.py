"""ESPnet is imported as far as it is used, silently; its tasks are changed then."""

import subprocess
import sys

import pytest

pytest.importorskip("espnet2")

SCRIPT = """
import sys
import espnet_adastride.plugin
from espnet_adastride.plugin import imports
from espnet_adastride.plugin.register import TASKS
print("imported", flush=True)
print("imported", file=sys.stderr, flush=True)

late = ["g2p_en", "espnet2.tasks.ssl", "espnet2.gan_tts.jets.alignments"]
late += [name for name in TASKS if name != "espnet2.tasks.asr"]
late += ["espnet2.bin.asr_align", "espnet2.bin.align", "transformers"]
found = [name for name in late if name in sys.modules]
# a package that ESPnet imports as a whole is there, not yet loaded
found = [n for n in found if type(sys.modules[n]).__name__ != "_LazyModule"]
assert not found, found

from espnet2.main_funcs import calculate_all_attentions
assert not isinstance(3, calculate_all_attentions.AlignmentModule)
import espnet2.tasks.slu as slu
assert slu.SLUTask.trainer.__name__ == "StrideTrainer"
assert slu.encoder_choices.classes["conformer"].__module__.startswith("espnet_adas")
assert type(slu.__loader__).__module__ != imports.__name__
print("as wanted")
"""


def test_what_is_not_used_is_not_imported_and_nothing_is_printed():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("as wanted\n")
    for said in (done.stdout, done.stderr):  # by the plugin's import: nothing
        assert said.startswith("imported\n"), said
