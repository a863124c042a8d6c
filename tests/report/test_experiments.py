"""The report: its numbers by hand, its page in a real browser."""

import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import plot
from espnet_adastride.bin import report as command
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.scoring import score
from espnet_adastride.evaluation.statistics import Bootstrap
from espnet_adastride.report import experiments

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
RATE = 8000
NASTY = "<script>document.title='OWNED'</script>"
EPOCH = (
    "[h] 2026-01-01 00:00:00,0 (trainer:394) INFO: {n}epoch results: [train] "
    "loss={loss}, stride_entropy=0.9, time=1 second, total_count=3, [valid] "
    "loss={loss}, cer_ctc=0.5, stride_entropy=0.8, time=1 second, total_count=3\n"
)
REFERENCES = {
    "s1-u1": "A B C D",
    "s1-u2": "A B",
    "s2-u3": f"A {NASTY} C",
    "s2-u4": "A",
}


def make_experiment(recipe, name, hypotheses, decodings=("decode_x",)):
    """Write what the report reads of exp/NAME: configuration, log, scored sets."""
    folder = recipe / "exp" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("encoder_conf: {input_layer: conv2d}\n")
    log = "".join(EPOCH.format(n=n, loss=9 / n) for n in (1, 2, 3))
    (folder / "train.log").write_text(log)
    data = recipe / "dump" / "raw" / "test"
    for decoding in decodings:
        output = folder / decoding / "test"
        output.mkdir(parents=True)
        with (output / "text").open("w") as file:
            file.writelines(f"{k} {hypotheses[k]}\n" for k in hypotheses)
        score(data / "text", output / "text", output)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe's folder with a test set and two experiments; names are hostile."""
    recipe = tmp_path_factory.mktemp("a recipe & more")
    data = recipe / "dump" / "raw" / "test"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for key in REFERENCES:
        wave = 0.1 * rng.standard_normal(RATE)
        soundfile.write(recipe / f"{key}.flac", wave, RATE)
    waves = "".join(f"{key} {key}.flac\n" for key in REFERENCES)  # as recipes name them
    (data / "wav.scp").write_text(waves)
    (data / "text").write_text("".join(f"{k} {v}\n" for k, v in REFERENCES.items()))
    speakers = "".join(f"{k} {k.split('-')[0]}\n" for k in REFERENCES)
    (data / "utt2spk").write_text(speakers)
    make_experiment(
        recipe,
        "asr_one",
        {"s1-u1": "A B X C D", "s1-u2": "A", "s2-u3": "A C", "s2-u4": "A"},
    )
    make_experiment(
        recipe,
        "asr_two<b>",
        {"s1-u1": "B", "s1-u2": "B A", "s2-u3": "X Y Z", "s2-u4": "B"},
    )
    return recipe


LONG = "asr_train_asr_conformer_specaug_raw_en_bpe5000_sp_seed0_max_epoch50_" + 60 * "x"
GREEDY = "decode_ctc_greedy_asr_model_valid.cer_ctc.ave"
BEAM = "decode_asr_lm_lm_train_lm_en_bpe5000_valid.loss.ave_asr_model_valid.acc.ave"


@pytest.fixture(scope="module")
def long_page(tmp_path_factory, recipe):
    """The report on experiments with names of any length, one decoded in two ways."""
    root = tmp_path_factory.mktemp("long")
    speakers = {f"s{i}-u{i}": f"WORD{i} IS {80 * 'W'}" for i in range(20)}
    data = root / "dump" / "raw" / "test"
    data.mkdir(parents=True)
    (data / "text").write_text("".join(f"{k} {v}\n" for k, v in speakers.items()))
    (data / "utt2spk").write_text(
        "".join(f"{k} s{i // 2}\n" for i, k in enumerate(speakers))
    )
    right = {key: text.replace("IS", "") for key, text in speakers.items()}
    wrong = {key: "X" for key in speakers}
    folders = [
        make_experiment(root, LONG, right, (BEAM, GREEDY)),
        make_experiment(root, "asr_short", wrong, (GREEDY,)),
    ]
    output = root / "report.html"
    command.main([*map(str, folders), "--output", str(output), "--pictures", "0"])
    return output


@pytest.fixture(scope="module")
def page(recipe):
    """The report on both experiments."""
    output = recipe / "out" / "report.html"
    folders = [str(recipe / "exp" / name) for name in ("asr_one", "asr_two<b>")]
    command.main([*folders, "--output", str(output), "--pictures", "0"])
    return output


def systems(recipe, *names):
    return experiments.read_systems(
        [experiments.read_experiment(recipe / "exp" / name) for name in names]
    )


def test_rates_by_hand(recipe):
    (row,) = experiments.rate_rows(systems(recipe, "asr_one"), 200)
    # 10 words: an insertion in u1, deletions in u2 and u3
    assert row["wer"] == pytest.approx(30.0)
    assert (row["ins"], row["dele"], row["sub"]) == pytest.approx((10.0, 20.0, 0.0))
    assert row["wrong"] == 75.0 and row["utterances"] == 4 and row["words"] == 10
    assert row["low"] < 30.0 < row["high"]
    assert row["speaker_interval"] is None and row["speakers"] == 2


def test_chapters_of_librispeech_are_not_taken_for_speakers(tmp_path):
    folder = tmp_path / "decode" / "test"
    (folder / "score_wer").mkdir(parents=True)
    ids = ["84-121123-0000", "84-121550-0000", "174-50561-0000"]
    lines = "".join(f"A\t({i.rpartition('-')[0]}-{i})\n" for i in ids)
    for name in ("ref.trn", "hyp.trn"):
        (folder / "score_wer" / name).write_text(lines)
    (folder / "text").write_text("".join(f"{i} A\n" for i in ids))
    speakers = experiments.read_decoded(tmp_path, folder).speakers
    assert speakers == dict(zip(ids, ["84", "84", "174"]))


def test_intervals_of_rates():
    errors, tokens = np.array([1.0, 0.0] * 50), np.full(100, 2.0)
    one = Bootstrap(np.arange(100), 4000).ratio(errors, tokens).percent()
    # 25 % of 200 words; an utterance's rate has a deviation of 25 points
    assert one.value == 25.0
    assert (one.low, one.high) == pytest.approx((20.1, 29.9), abs=0.8)
    same = Bootstrap(np.arange(9), 200).ratio(np.ones(9), np.full(9, 4.0)).percent()
    assert same.low == same.high == same.value == 25.0


def test_differences(recipe):
    both = systems(recipe, "asr_one", "asr_two<b>")
    rows, notes, by_speaker = experiments.difference_rows(both, 500)
    (row,) = rows
    # u1 3, u2 2, u3 3, u4 1 against 1, 1, 1, 0 of 10 words
    assert (row["system"], row["baseline"]) == ("asr_two<b>", "asr_one")
    assert row["value"] == pytest.approx(60.0) and not by_speaker
    # four utterances that all point one way: chance alone, once in 8 times
    assert row["p"] == pytest.approx(2 / 16)
    assert row["verdict"] == "no difference shown"
    few, speakers = notes
    assert few.startswith("test: Only 4 utterances: the interval of so few")
    assert "resampled by utterance, because it has only 2 speakers" in speakers
    rows, _, _ = experiments.difference_rows([both[0], both[0]], 500)
    assert rows[0]["value"] == 0 and rows[0]["verdict"] == "no difference shown"
    other = experiments.read_systems(
        [experiments.read_experiment(recipe / "exp" / "asr_two<b>")]
    )
    other[0].decoded.ref["s2-u4"] = "B"
    rows, notes, _ = experiments.difference_rows([both[0], *other], 500)
    assert not rows and "not compared" in notes[0]


def test_the_worst_come_first(recipe):
    (system,) = systems(recipe, "asr_two<b>")
    worst = experiments.worst_of(system.aligned, 3)
    assert [a.id for a in worst] == ["s2-u3", "s1-u1", "s1-u2"]
    (system,) = systems(recipe, "asr_one")
    assert "s2-u4" not in [a.id for a in experiments.worst_of(system.aligned, 9)]


def test_names_in_trn_files():
    ids = {"00-1", "jackson-00-1"}
    assert experiments.split_name("jackson-00-jackson-00-1", ids) == (
        "jackson-00-1",
        "jackson-00",
    )
    assert experiments.split_name("jackson-00-1", ids) == ("jackson-00-1", "")
    assert experiments.split_name("x-y", ids) == ("x-y", "")


def test_every_text_is_escaped(page):
    text = page.read_text(encoding="utf-8").replace("<wbr>", "")
    assert NASTY not in text and "&lt;script&gt;document.title" in text
    assert "asr_two<b>" not in text and "asr_two&lt;b&gt;" in text
    # our one script alone, and nothing from elsewhere
    assert text.count("<script") == 1
    for address in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s>)]+)', text):
        assert address.startswith(("data:", "#")), address


class Tables(HTMLParser):
    """Tables by id: (label, text) of the cells of each row, and the column heads."""

    def __init__(self, text):
        super().__init__()
        self.heads, self.rows, self.open, self.name = {}, {}, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "table":
            self.name = attributes.get("id", f"worst{len(self.heads)}")
            self.heads[self.name], self.rows[self.name] = [], []
        elif tag == "tr" and self.heads[self.name]:
            self.rows[self.name].append([])
        elif tag in ("th", "td"):
            self.open = [attributes.get("data-label"), ""]

    def handle_endtag(self, tag):
        if tag == "th":
            self.heads[self.name].append(self.open[1].strip())
        elif tag == "td":
            self.rows[self.name][-1].append((self.open[0], self.open[1].strip()))
        self.open = None if tag in ("th", "td") else self.open

    def handle_data(self, data):
        if self.open:
            self.open[1] += data


def test_the_first_columns_are_the_rate_and_the_verdict(long_page):
    tables = Tables(long_page.read_text(encoding="utf-8"))
    rates, differences = tables.heads["rates-table"], tables.heads["differences-table"]
    assert rates[:4] == ["experiment", "WER %", "95 % interval", "verdict"]
    assert differences[:4] == ["experiment", "WER, points", "95 % interval", "verdict"]
    # the labels of a card are the heads of the table, in the same order
    for name, heads in tables.heads.items():
        assert tables.rows[name]
        for row in tables.rows[name]:
            labels = [label for label, _ in row]
            assert labels == heads or labels == [None, *heads[1:]]
    shown = [[text for _, text in row][1:4] for row in tables.rows["rates-table"]]
    assert shown == [
        ["33.33", "33.33 to 33.33", "baseline"],
        ["33.33", "33.33 to 33.33", "no difference shown"],
        ["100.00", "100.00 to 100.00", "worse"],
    ]


def test_every_hypothesis_says_what_decoded_it(long_page, page):
    text = long_page.read_text(encoding="utf-8").replace("<wbr>", "")
    for name, decoding in ((LONG, BEAM), (LONG, GREEDY), ("asr_short", GREEDY)):
        assert f"<summary>{name}, {decoding}, test: 10 of 20</summary>" in text
        # and each of the ten hypotheses below it
        assert text.count(f'<div class="quiet">{name}, {decoding}</div>') == 10
    rows = Tables(text).rows["differences-table"]
    named = {row[0][1] for row in rows} | {row[4][1] for row in rows}
    assert named == {f"{LONG}, {BEAM}", f"{LONG}, {GREEDY}", f"asr_short, {GREEDY}"}
    # one decoding of all: the names are enough
    (row,) = Tables(page.read_text(encoding="utf-8")).rows["differences-table"]
    assert (row[0][1], row[4][1]) == ("asr_two<b>", "asr_one")


def test_narrow_screens_get_cards(page):
    text = page.read_text(encoding="utf-8")
    rules = re.search(r"@media \(max-width: \d+rem\) \{(.*?)\n\}", text, re.S).group(1)
    assert re.search(r"\.cards tr, \.cards td \{ display: block", rules)
    assert "content: attr(data-label)" in rules
    assert ".cards thead { display: none; }" in rules
    assert re.search(r"td\.text \{[^}]*overflow-wrap: anywhere", text)


def test_verdicts_are_those_against_the_first():
    def row(test, system, baseline, verdict):
        return dict(set=test, system=system, baseline=baseline, verdict=verdict)

    rates = [{"set": s, "system": n} for s in ("t", "u") for n in "abc"]
    experiments.add_verdicts(
        rates,
        [row("t", "b", "a", "worse"), row("t", "c", "a", "better"),
         row("t", "c", "b", "no difference shown")],
    )  # fmt: skip
    assert [r["verdict"] for r in rates[:3]] == ["baseline", "worse", "better"]
    assert [r["verdict"] for r in rates[3:]] == ["", "", ""]


def test_what_is_no_experiment_is_refused(recipe, tmp_path):
    def said(*words):
        with pytest.raises(SystemExit) as end:
            command.main([str(w) for w in words])
        assert "\n" not in end.value.code
        return end.value.code

    exp = recipe / "exp" / "asr_one"
    assert "no such folder" in said(tmp_path / "none")
    assert "no config.yaml in it" in said(tmp_path)
    assert "give one of the experiments in it: asr_one" in said(recipe / "exp")
    assert "a file, not a folder" in said(exp / "train.log")
    empty = tmp_path / "asr_empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("{}")
    assert "nothing to report" in said(empty) and "adastride score" in said(empty)
    assert "must end in .html" in said(exp, "--output", tmp_path / "report.pdf")
    assert "no wav.scp in it" in said(exp, "--data_dir", tmp_path)
    bad = tmp_path / "bad.trn"
    bad.write_text("A B C\n")
    with pytest.raises(UserError, match="bad.trn:1"):
        experiments.read_trn(bad)


def test_an_experiment_without_results(recipe, tmp_path, capsys):
    exp = tmp_path / "exp" / "asr_new"
    exp.mkdir(parents=True)
    for name in ("config.yaml", "train.log"):
        shutil.copy(recipe / "exp" / "asr_one" / name, exp)
    command.main([str(exp), "--output", str(tmp_path / "r.html")])
    said = capsys.readouterr().out
    assert "asr_new: no scored set yet (adastride score scores" in said
    text = (tmp_path / "r.html").read_text()
    assert "No set has been decoded and scored yet" in text and "<svg" in text


def test_methods_that_place_frames_have_pictures(recipe, tmp_path, capsys):
    """cif, too; that the strides of others are uniform is known from their names."""
    pytest.importorskip("espnet2")
    import tiny_models

    conf = {"stride": 4, "channels": 4, "trunk": "conv1d"}
    names = ("cif", "avg_pool")
    for name in names:
        exp = tiny_models.make_experiment(tmp_path / "exp" / f"asr_{name}", name, conf)
        shutil.copytree(recipe / "exp" / "asr_one" / "decode_x", exp / "decode_x")
    (tmp_path / "data" / "test").mkdir(parents=True)
    waves = "".join(f"{key} {recipe}/{key}.flac\n" for key in REFERENCES)
    (tmp_path / "data" / "test" / "wav.scp").write_text(waves)
    page = tmp_path / "r.html"
    command.main([*(f"{tmp_path}/exp/asr_{n}" for n in names), "--output", str(page)])
    text = html.unescape(page.read_text().replace("<wbr>", ""))
    assert "asr_avg_pool: strides are uniform" in text
    assert "asr_cif: strides are uniform" not in text
    assert not capsys.readouterr().err and text.count("<audio") > 0


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("config.yaml", b"", "config.yaml: holds no options; give a training's"),
        ("config.yaml", b"accum_grad: 1\nbatch", "config.yaml: not YAML: could not"),
        ("config.yaml", b"# \xff\n", "config.yaml:1: not UTF-8; convert the file"),
        ("valid.acc.ave.pth", b"", "valid.acc.ave.pth: cannot be read as a model"),
        ("wav.scp", b"", "no pictures of strides: the recordings were not found"),
    ],
)
def test_why_there_are_no_pictures_is_said(
    recipe, tmp_path, capsys, name, content, words
):
    """On the page and in the terminal; that strides are uniform, only on the page."""
    pytest.importorskip("espnet2")
    import tiny_models

    exp = tiny_models.make_experiment(tmp_path / "exp" / "asr_tiny")
    source = recipe / "exp" / "asr_one"
    shutil.copytree(source / "decode_x", exp / "decode_x")
    data = tmp_path / "data" / "test"
    data.mkdir(parents=True)
    waves = "".join(f"{key} {recipe}/{key}.flac\n" for key in REFERENCES)
    (data / "wav.scp").write_text(waves)
    if name == "wav.scp":
        shutil.rmtree(data)
    else:
        (exp / name).write_bytes(content)
    command.main([str(exp), str(source), "--output", str(tmp_path / "r.html")])
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "strides" in line]
    assert line.startswith("asr_tiny: no pictures of strides: ") and words in line
    text = html.unescape((tmp_path / "r.html").read_text().replace("<wbr>", ""))
    assert line in text and "asr_one: strides are uniform" in text
    assert text.count("<table") and "asr_tiny: strides are uniform" not in text


def test_a_scored_set_without_utterances_is_refused(recipe, tmp_path):
    """It is not one that has not been decoded yet."""
    exp = tmp_path / "exp" / "asr_new"
    shutil.copytree(recipe / "exp" / "asr_one", exp)
    score_folder = exp / "decode_x" / "test" / "score_wer"
    for name in ("ref.trn", "hyp.trn"):
        (score_folder / name).write_text("")
    with pytest.raises(SystemExit) as end:
        command.main([str(exp), "--output", str(tmp_path / "r.html")])
    assert end.value.code == (
        f"error: {score_folder}/ref.trn: no utterances in it; score again"
    )
    assert not (tmp_path / "r.html").exists()


def test_experiments_of_one_name_are_told_apart(tmp_path, capsys):
    """By the recipe's folder, or, where they are of one recipe, by their paths."""
    folders = [
        tmp_path / place / "asr"
        for place in ("recipe/exp_seed0", "recipe/exp_seed1", "other/exp")
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        (folder / "train.log").write_text(EPOCH.format(n=1, loss=9))
    command.main([*map(str, folders), "--output", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text().replace("<wbr>", "")
    legend = re.findall("</span> ([^<]*)</li>", text)
    names = [str(folders[0]), str(folders[1]), "other: asr"]
    assert legend == names
    # and in pictures; a folder that is given twice is drawn once
    given = [*map(str, folders), str(folders[0])]
    plot.main(["training", *given, "--output", str(tmp_path / "t.png")])
    out = capsys.readouterr().out
    assert re.findall("^(.*): 1 epoch", out, re.M) == names


def test_an_experiment_at_the_root_of_a_disk(recipe):
    """As in a container, where it is mounted as /model."""
    decoded = experiments.read_experiment(recipe / "exp" / "asr_one").decoded[0]
    decoded = decoded._replace(set="no such set")
    assert experiments.find_audio(decoded, Path("/model")) == {}


def test_pictures_of_an_adaptive_model(recipe, tmp_path, capsys):
    pytest.importorskip("espnet2")
    import tiny_models

    exp = tiny_models.make_experiment(tmp_path / "exp" / "asr_tiny")
    source = recipe / "exp" / "asr_one" / "decode_x"
    shutil.copytree(source, exp / "decode_x")
    data = tmp_path / "data" / "test"
    data.mkdir(parents=True)
    for key in REFERENCES:
        shutil.copy(recipe / f"{key}.flac", data / f"{key}.flac")
    (data / "wav.scp").write_text(
        "".join(f"{key} {data}/{key}.flac\n" for key in REFERENCES)
    )
    command.main([str(exp), "--output", str(tmp_path / "r.html"), "--worst", "1"])
    text = (tmp_path / "r.html").read_text()
    assert text.count('src="data:image/png') == 2
    # the picture's search is not the report's
    assert text.count("HYP in the picture: greedy CTC; decode_x recognised: ") == 2
    assert "s1-u2, among the worst" in text or "s2-u3, among the worst" in text


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that fetches nothing."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if BROWSER is None or DRIVER is None:
        pytest.skip(
            "no chromium and chromedriver found (apt-get install chromium-driver)"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new --no-sandbox --disable-gpu --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync"
    ).split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # both paths are given, so that selenium looks for none elsewhere
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def show(browser, page, width=1200, dark=False):
    """Open the page at a width, in the light or in the dark."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1}
    size["mobile"] = width < 500
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())


def column(browser, table, number):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
        ".map(row => row.cells[arguments[1]].textContent.trim())",
        table,
        number,
    )


def test_the_page_opens_without_a_complaint(browser, page):
    show(browser, page)
    assert browser.title == "2 experiments"  # no text became a script
    assert browser.get_log("browser") == []


def test_tables_are_sorted_by_mouse_and_keys(browser, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    assert column(browser, "#rates-table", 1) == ["30.00", "90.00"]
    heads = browser.find_elements(By.CSS_SELECTOR, "#rates-table th")
    button = heads[1].find_element(By.TAG_NAME, "button")
    button.click()
    assert heads[1].get_attribute("aria-sort") == "ascending"
    assert column(browser, "#rates-table", 1) == ["30.00", "90.00"]
    button.send_keys(Keys.ENTER)
    assert heads[1].get_attribute("aria-sort") == "descending"
    assert column(browser, "#rates-table", 1) == ["90.00", "30.00"]
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    names = column(browser, "#rates-table", 0)
    assert names == ["asr_onedecode_x", "asr_two<b>decode_x"]
    assert heads[1].get_attribute("aria-sort") is None
    # numbers as numbers, and the rest of the row goes with them
    worst = "details:last-of-type .worst"
    browser.execute_script("document.querySelectorAll('details').forEach(d=>d.open=1)")
    errors = browser.find_elements(By.CSS_SELECTOR, f"{worst} th button")[1]
    errors.click()
    assert column(browser, worst, 1) == ["1", "2", "3", "3"]
    assert column(browser, worst, 0)[0].startswith("s2-u4")


def test_nothing_overflows_on_a_phone(browser, page):
    show(browser, page, width=360)
    script = "return [document.documentElement.scrollWidth, innerWidth]"
    assert browser.execute_script(script) == [360, 360]
    # what is wider would scroll in its box, which keys can reach
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(b => "
        "[getComputedStyle(b).overflowX, b.tabIndex])"
    )
    assert boxes and all(box == ["auto", 0] for box in boxes)


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280])
def test_tables_are_seen_whole(browser, long_page, width):
    """No name is too long: neither the page nor a table's box scrolls sideways."""
    show(browser, long_page, width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(d=>d.open=1)")
    script = "return [document.documentElement.scrollWidth, innerWidth]"
    total, inner = browser.execute_script(script)
    assert total <= inner == width
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".map(b => [b.scrollWidth, b.clientWidth])"
    )
    assert len(boxes) == 2 + 3
    assert all(inside <= box for inside, box in boxes), boxes
    # every value is within the screen, and so are the words of long texts
    beyond = browser.execute_script(
        "return [...document.querySelectorAll('td, .pair')]"
        ".filter(e => e.getClientRects().length)"
        ".map(e => e.getBoundingClientRect()).filter(r => r.left < 0 || r.right > "
        "document.documentElement.clientWidth).length"
    )
    assert beyond == 0
    shown = browser.execute_script(
        "return [...document.querySelector('#rates-table tbody tr').cells]"
        ".slice(0, 4).map(c => { const r = c.getBoundingClientRect(); return "
        "[r.top, r.left, getComputedStyle(c, '::before').content]; })"
    )
    tops, lefts, labels = zip(*shown)
    if width <= 1024:  # a card: one value below the other, each with its label
        assert sorted(set(tops)) == list(tops)
        assert labels[1:] == ('"WER %"', '"95 % interval"', '"verdict"')
    else:
        assert len(set(tops)) == 1 and sorted(set(lefts)) == list(lefts)
        assert set(labels) == {"none"}


CONTRAST = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
  return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
const back = e => { for (; e; e = e.parentElement) {
  const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll('main *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length || e.closest('[aria-hidden]')) continue;
  const style = getComputedStyle(e);
  const ink = parse(e.closest('svg') ? style.fill : style.color);
  const a = light(ink), b = light(back(e));
  found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05),
              e.tagName + ' ' + e.textContent.trim().slice(0, 30)]);
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_is_readable(browser, page, dark):
    show(browser, page, dark=dark)
    ground = browser.execute_script(
        "return getComputedStyle(document.body).backgroundColor"
    )
    assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == dark
    found = browser.execute_script(CONTRAST)
    assert len(found) > 50
    assert not [one for one in found if one[0] < 4.5]  # WCAG AA


def test_recordings_can_be_played(browser, page):
    show(browser, page)
    browser.execute_script("document.querySelectorAll('details').forEach(d=>d.open=1)")
    browser.set_script_timeout(20)
    lengths = browser.execute_async_script(
        "const done = arguments[0], all = [...document.querySelectorAll('audio')];"
        "Promise.all(all.map(a => a.readyState ? 0 : new Promise(r => {"
        "a.onloadedmetadata = a.onerror = r; a.load(); })))"
        ".then(() => done(all.map(a => a.readyState ? a.duration : 0)))"
    )
    assert len(lengths) == 3 + 4
    assert all(length == pytest.approx(1.0, abs=0.2) for length in lengths)
