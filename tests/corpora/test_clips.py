"""Corpora of classified recordings: layouts, splits, tables of one's own, bad input."""

import pytest

from espnet_adastride.corpora.clips import (
    PARTS,
    describe_clips,
    find_clips,
    folds_in_a_round,
    published_split,
    rotating_split,
    split_clips,
)
from espnet_adastride.errors import UserError

WORDS = ("high", "low", "mid")


def touch(folder, *names):
    """Make files that are found, but not read."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.fixture
def speech_commands(tmp_path):
    names = [f"{w}/{n:08x}_nohash_0.wav" for w in WORDS for n in range(40)]
    return touch(tmp_path / "words", *names, "_background_noise_/hiss.wav", "README.md")


# ------------------------------------------------------------------ layouts
def test_fsdd(tmp_path):
    names = [
        f"recordings/{d}_{who}_{n}.wav"
        for d in "07"
        for who in ("ann", "bo_b")
        for n in range(2)
    ]
    clips = find_clips(touch(tmp_path, *names, "README.md"), "fsdd")
    assert len(clips) == 8 and {clip.label for clip in clips} == {"0", "7"}
    assert clips[0].id == "0/0_ann_0" and clips[0].group == "ann"
    assert clips == find_clips(tmp_path / "recordings", "fsdd")
    assert {clip.group for clip in clips} == {"ann", "bo_b"}
    touch(tmp_path, "recordings/zero.wav")
    with pytest.raises(
        UserError, match="zero.wav: the name is not DIGIT_SPEAKER_INDEX"
    ):
        find_clips(tmp_path, "fsdd")


def test_esc10_in_folders_and_in_esc50(tmp_path):
    folders = touch(
        tmp_path / "esc10",
        "001 - Dog bark/1-30226-A.ogg",
        "001 - Dog bark/2-99-A.ogg",
        "rain/1-7-B.wav",
    )
    clips = find_clips(tmp_path, "esc10")  # the folder above will do
    assert [(c.id, c.label, c.group, c.fold) for c in clips] == [
        ("Dog bark/1-30226-A", "Dog bark", "30226", "1"),
        ("Dog bark/2-99-A", "Dog bark", "99", "2"),
        ("rain/1-7-B", "rain", "7", "1"),
    ]
    esc50 = touch(tmp_path / "ESC-50", "audio/1-5-A-0.wav", "audio/5-6-A-10.wav")
    (esc50 / "meta").mkdir()
    (esc50 / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-5-A-0.wav,1,0,dog,True,5,A\n"
        "5-6-A-10.wav,5,10,rain,True,6,A\n"
        "2-8-A-7.wav,2,7,door_wood_knock,False,8,A\n"
    )
    found = [(c.label, c.group, c.fold) for c in find_clips(esc50, "esc10")]
    assert found == [("dog", "5", "1"), ("rain", "6", "5")]
    (esc50 / "audio" / "5-6-A-10.wav").unlink()
    with pytest.raises(UserError, match="esc50.csv, line 3: .*5-6-A-10.wav is miss"):
        find_clips(esc50, "esc10")
    touch(folders, "rain/drops.wav")
    with pytest.raises(UserError, match="so its fold is unknown"):
        find_clips(folders, "esc10")


def test_a_table_is_all_that_a_corpus_of_ones_own_needs(tmp_path):
    touch(tmp_path, "a/x.wav", "b/x.flac", "y,1.wav")
    table = tmp_path / "labels.csv"
    table.write_bytes(
        b"\xef\xbb\xbffile,label,group\r\na/x.wav, cat ,tom\r\n\r\n"
        b'b/x.flac,dog,\r\n"y,1.wav", "cat", tom\r\n'
    )
    clips = find_clips(tmp_path, "table")
    assert [(c.id, c.label, c.group) for c in clips] == [
        ("cat/a/x", "cat", "tom"),
        ("cat/y,1", "cat", "tom"),
        ("dog/b/x", "dog", "b/x"),  # a group of its own
    ]
    table.rename(tmp_path / "labels.tsv")
    (tmp_path / "labels.tsv").write_text("label\tfile\tpart\nc\ta/x.wav\ttest\n")
    with pytest.raises(UserError, match="all 1 recordings are 'c'"):
        find_clips(tmp_path, "table")


@pytest.mark.parametrize(
    "text, words",
    [
        ("file,class\nx.wav,a\n", "no column label; its first line is 'file,class'"),
        ("", "the file is empty; write a header and rows"),
        ("file,label\n", "its table has no recordings; add a row for each"),
        ("\nfile,label\n", "no column file and label; its first line is ''"),
        ("file," + 2**18 * "x", ":1: not CSV .field larger than"),
        ("file,label,speaker\n", "unknown column 'speaker'"),
        ("file,label\nx.wav\n", "line 2: 1 column, the header has 2"),
        ("file,label\nx.wav,\n", "line 2: file 'x.wav', label ''"),
        ("file,label\nx.wav,a/b\n", "label must not contain /"),
        ("file,label\nz.wav,a\n", "line 2: .*z.wav: no such file"),
        ("file,label,part\nx.wav,a,dev\n", "line 2: unknown part 'dev'"),
        ("file,label\nx.wav,a\nx.flac,a\na.wav,b\n", "both a/x; rename one"),
        ("file,label\nx.wav,a\nx.wav,a\n", r"x.wav is listed twice \(a\); keep one"),
        ("file,label\nx.wav,a\n./x.wav,b\n", r"listed twice \(a and b\)"),
        ("file,label\nx.wav,\xe9\n", "labels.csv:2: not UTF-8"),
    ],
)
def test_a_bad_table_is_named(tmp_path, text, words):
    touch(tmp_path, "x.wav", "x.flac", "a.wav")
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words) as caught:
        find_clips(tmp_path, "table")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_corpus_is_told(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_clips(tmp_path / "none", "fsdd")
    for layout, words in (
        ("speech_commands", "no WORD"),
        ("fsdd", "no DIGIT_SPEAKER"),
        ("esc10", "no CLASS/FOLD"),
        ("table", "no labels.csv in it; give one table"),
    ):
        with pytest.raises(UserError, match=words):
            find_clips(tmp_path, layout)
    (tmp_path / "labels.csv").write_text("file,label\n")
    (tmp_path / "labels.tsv").write_text("file\tlabel\n")
    with pytest.raises(UserError, match="labels.csv and labels.tsv in it"):
        find_clips(tmp_path, "table")


# ------------------------------------------------------------------- splits
def test_the_split_is_by_speaker_and_never_changes(speech_commands):
    clips = find_clips(speech_commands, "speech_commands")
    assert len(clips) == 120 and {clip.label for clip in clips} == set(WORDS)
    tested = []
    for seed in (0, 1, 2):
        parts = split_clips(clips, "rotating", seed)
        assert sorted(sum(parts.values(), [])) == list(range(120))
        speakers = {
            part: {clips[index].group for index in indices}
            for part, indices in parts.items()
        }
        assert not speakers["train"] & speakers["test"]
        assert not speakers["valid"] & (speakers["test"] | speakers["train"])
        assert not any(speakers["test"] & before for before in tested)
        assert split_clips(clips, "fixed", seed) == split_clips(clips, "rotating", 0)
        tested.append(speakers["test"])
    # SHA-256 modulo 10 is 9, 0 and 6
    parts = [(9, "00000075"), (0, "0000008b"), (6, "00176480")]
    for fold, speaker in parts:
        found = [rotating_split(speaker, seed) for seed in range(10)]
        assert found.index("test") == fold and found.index("valid") == (fold + 5) % 10
        assert found.count("train") == 8
    many = [rotating_split(f"{number:08x}", 3) for number in range(5000)]
    assert 0.79 < many.count("train") / 5000 < 0.81
    assert 0.09 < many.count("test") / 5000 < 0.11


def test_the_published_rule_gives_the_published_lists():
    parts = {
        "valid": ("026290a7", "060cd039"),  # of validation_list.txt
        "test": ("0c40e715", "0ea0e2f4"),  # of testing_list.txt
        "train": ("00176480",),
    }
    for part, speakers in parts.items():
        for speaker in speakers:
            assert published_split(speaker) == part


def fold_corpus(tmp_path, rows, columns="file,label,group,fold,part"):
    touch(tmp_path, *(row.split(",")[0] for row in rows))
    (tmp_path / "labels.csv").write_text("\n".join([columns, *rows]) + "\n")
    return find_clips(tmp_path, "table")


def test_cross_validation_tests_every_clip_once_a_round(tmp_path):
    rows = [
        f"{label}{fold}.wav,{label},g{fold % 4},{fold % 4},"
        for label in "ab"
        for fold in range(8)
    ]
    clips = fold_corpus(tmp_path, rows)
    for split in ("folds", "leave_one_out"):
        assert folds_in_a_round(clips, split) == 4
        tested = []
        for seed in range(4, 8):
            parts = split_clips(clips, split, seed)
            assert [len(parts[part]) for part in PARTS] == [8, 4, 4]
            assert {clips[i].group for i in parts["test"]} == {f"g{seed % 4}"}
            assert {clips[i].group for i in parts["valid"]} == {f"g{(seed + 1) % 4}"}
            tested += parts["test"]
        assert sorted(tested) == list(range(16))
    assert folds_in_a_round(clips, "rotating") == 1
    assert (
        "16 clips of 2 classes in 4 groups; train/valid/test: 8/4/4 (seeds 0, 1)"
        in (describe_clips(clips, "folds", [0, 1]))
    )


def test_the_tables_own_parts_and_what_splits_refuse(tmp_path):
    rows = ["1.wav,a,g,1,train", "2.wav,b,h,1,train", "3.wav,a,i,1,valid"]
    clips = fold_corpus(tmp_path, [*rows, "4.wav,b,j,2,test"])
    parts = split_clips(clips, "given", 7)
    named = {part: [clips[i].path.name for i in parts[part]] for part in PARTS}
    assert named == {"train": ["1.wav", "2.wav"], "valid": ["3.wav"], "test": ["4.wav"]}

    def refused(split, *more):
        with pytest.raises(UserError) as caught:
            split_clips(fold_corpus(tmp_path, [*rows, *more]), split, 0)
        return str(caught.value)

    assert "no test clips among 3 in 3 groups (seed 0); its column" in refused("given")
    assert "for few groups use leave_one_out" in refused("rotating")
    assert "4.wav has no part; the same holds for 1 others" in refused(
        "given", "4.wav,b,j,1,", "5.wav,b,k,1,"
    )
    line = refused("given", "4.wav,a,g,1,test")
    assert "group g is in two parts, train and test" in line
    assert "4.wav has no fold" in refused("folds", "4.wav,a,k,,test")
    assert "two folds" in refused("folds", "4.wav,a,g,2,test")
    assert "of the clips: 2 (1, 2);" in refused("folds", "4.wav,a,k,2,test")
    line = refused("given", "4.wav,c,k,1,test")
    assert "has class 'c', which has no training clips" in line
