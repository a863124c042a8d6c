#!/usr/bin/env bash
# The recipe driver: from a corpus on disk to a table of word error rates, with ESPnet's
# stage numbers, option names and folders, without Kaldi and sclite.
#
#   1  data preparation (local/data.sh)   6-8  language model   13  scoring
#   2  speed perturbation                  10  statistics       14  packing
#   3  check and format audio, features    11  training
#   4  remove long and short utterances    12  decoding
#   5  token list
#
# It is called by a recipe's run.sh, in the recipe's folder, or directly in your own folder
# with data/<set> (docs/own_recordings.md); `--help` lists the options. A stage that is done
# and unchanged is skipped (--rerun true repeats it).
set -euo pipefail
unset CDPATH
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "${root}/egs/python.sh"

die() { echo "error: $*" >&2; exit 1; }
log() { echo "$(date '+%Y-%m-%d %H:%M:%S') $*"; }

# ---------------------------------------------------------------- options
option_names=()
help_text=
option() {  # NAME DEFAULT HELP...
    local name=$1 default=$2
    shift 2
    printf -v "${name}" %s "${default}"
    option_names+=("${name}")
    help_text+=$(printf '  --%-22s %s (default: "%s")' "${name}" "$*" "${default}")$'\n'
}
section() { help_text+=$'\n'"$1"$'\n'; }

default_python=${python}
cpus=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
gpus=0
! nvidia-smi -L >/dev/null 2>&1 || gpus=1

section "General"
option stage 1 "First stage to run"
option stop_stage 10000 "Last stage to run"
option skip_data_prep false "Skip stages 1-5"
option skip_train false "Skip stages 6-11"
option skip_eval false "Skip stages 12-13"
option skip_packing false "Skip stage 14"
option rerun false "Run stages even if they are done and unchanged"
option ngpu "${gpus}" "GPUs per node for training; 0: CPU"
option num_nodes 1 "Nodes for training"
option cpu_processes 1 "Training processes with --ngpu 0; each takes a part of every batch"
option nj "${cpus}" "Parallel jobs in data preparation and statistics"
option inference_nj "${cpus}" "Parallel jobs in decoding"
option gpu_inference false "Decode on a GPU"
option dumpdir dump "Folder for formatted data"
option expdir exp "Folder for experiments"
option python "${default_python}" "The Python to use; PYTHON= in the environment sets the default"
option cuda_cmd "" "Job runner for several GPUs or nodes (slurm.pl ...); empty: our own"
section "Data"
option train_set "" "Training set (required)"
option valid_set "" "Validation set (required)"
option test_sets "" "Test sets, separated by spaces (required)"
option local_data_opts "" "Extra options for local/data.sh"
option download false "Let stage 1 download the corpus if it is missing"
option lang noinfo "Language, for names of folders"
option speed_perturb_factors "" "Speeds of the training set's copies, e.g. 0.9 1.0 1.1"
option feats_type raw "raw: the model reads audio; extracted: it reads features of a" \
    "pretrained encoder (--upstream), extracted once in stage 3"
option upstream whisper "With --feats_type extracted: whisper (Whisper tiny.en, installed" \
    "by pip), whisper:FOLDER (a faster-whisper model) or transformers:FOLDER"
option upstream_layers last "Layers of a transformers upstream: last, all, or numbers," \
    "combined by a learned weighted sum"
option upstream_device cpu "cpu or cuda, for the extraction"
option audio_format flac "Format of resampled audio; flac only"
option fs 16k "Sampling rate"
option min_wav_duration 0.1 "Leave out training utterances that are not longer (seconds)"
option max_wav_duration 20 "Leave out training utterances that are not shorter (seconds)"
section "Tokens"
option token_type bpe "bpe or char"
option nbpe 30 "Number of BPE pieces"
option bpemode unigram "unigram or bpe"
option bpe_train_text "" "Text files for the tokens; empty: the training set's"
option bpe_char_cover 1.0 "Character coverage of BPE"
option bpe_nlsyms "" "User-defined BPE symbols, separated by commas"
option nlsyms_txt none "List of non-linguistic symbols"
option cleaner none "Text cleaner"
option g2p none "Grapheme-to-phoneme method of ESPnet; bpe and char do not use it"
section "Language model"
option use_lm false "Train a language model (stages 6-8) and decode with it"
option lm_config "" "Configuration (YAML)"
option lm_args "" "Options that override the configuration, split at spaces"
option lm_tag "" "Suffix of the model's folder; empty: from the configuration"
option lm_exp "" "The model's folder; overrides lm_tag"
option lm_stats_dir "" "Folder of the statistics"
option lm_train_text "" "Text files to train on, lines 'id text'; empty: the training set's"
option lm_dev_text "" "Text file to validate on; empty: the validation set's"
option lm_test_text "" "Text file for the perplexity; empty: the first test set's"
option lm_fold_length 150 "For batch_type folded"
option inference_lm valid.loss.ave.pth "Model file in the language model's folder"
option use_ngram false "Use an n-gram model (not implemented)"
section "Training"
option asr_config "" "Configuration (YAML); several files are merged, later ones override"
option asr_args "" "Options that override the configuration, split at spaces"
option asr_tag "" "Suffix of the experiment's folder; empty: from the configuration"
option asr_exp "" "The experiment's folder; overrides asr_tag"
option asr_stats_dir "" "Folder of the statistics"
option feats_normalize global_mvn "global_mvn, or utterance_mvn"
option pretrained_model "" "Model to start from (espnet's --init_param)"
option ignore_init_mismatch false "Load only the parameters of pretrained_model that fit"
option plan true "Plan the training first: lengths, CTC, batches, cost (plan.md)"
option max_unalignable 0.1 "Fail if CTC cannot align a larger share of the training set"
option plan_seconds 20 "Time limit for measuring training steps in s; 0: count only"
option asr_speech_fold_length 800 "For batch_type folded"
option asr_text_fold_length 150 "For batch_type folded"
section "Decoding"
option inference_config "" "Configuration (YAML)"
option inference_args "" "Options that override the configuration, split at spaces"
option inference_tag "" "Suffix of the decoding's folder; empty: from the configuration"
option inference_asr_model "" "Model file in the experiment's folder; empty: the average by" \
    "the configuration's best_model_criterion, e.g. valid.acc.ave.pth"
option inference_tool auto "espnet (asr_inference), ctc_greedy (batched greedy CTC)," \
    "or auto: ctc_greedy if inference_config's file name starts with decode_ctc_greedy"
option batch_size "" "Utterances decoded at once; empty: as in the configuration"
section "Packing"
option model_license cc-by-4.0 "License of the packed model, for the model card"

set_here=  # by the recipe's run.sh, whose values are not the defaults above
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) printf 'Usage: run.sh [--option value | --option=value]...\n%s' \
                            "${help_text}"
                     [ -z "${set_here}" ] ||
                         printf '\nSet by this recipe, or before --help\n%s' "${set_here}"
                     exit 0 ;;
        --version) "${default_python}" -c "import runpy; print('espnet_adastride',
            runpy.run_path('${root}/espnet_adastride/version.py')['__version__'])"; exit 0 ;;
        --*=*) name=${1%%=*} value=${1#*=}
               # shellcheck disable=SC2088  # which a shell expands at the start of a word
               [[ ${value} != "~" && ${value} != "~/"* ]] || value=${HOME}${value#"~"}
               shift ;;
        --*) [ $# -ge 2 ] || die "option $1 needs a value"
             name=$1 value=$2; shift 2 ;;
        *) die "'$1' is not an option; write --name value" ;;
    esac
    name=${name#--} name=${name//-/_}
    if [[ ${name} == *" "* || " ${option_names[*]} " != *" ${name} "* ]]; then
        near=$("${default_python}" -c 'import difflib, sys; print(" or ".join(
            "--" + n for n in difflib.get_close_matches(sys.argv[1], sys.argv[2:])))' \
            "${name}" "${option_names[@]}")
        die "unknown option --${name}${near:+; did you mean ${near}?}; --help lists all;" \
            "options of ESPnet's training go into --asr_args, of decoding into --inference_args"
    fi
    printf -v "${name}" %s "${value}"
    set_here+="  --${name} \"${value}\""$'\n'
done

for name in train_set valid_set test_sets; do
    [[ ${!name} =~ [^[:space:]] ]] || die "--${name} is required"
done
for name in train_set valid_set; do
    [[ ${!name} != *[[:space:]]* ]] || die "--${name} '${!name}': give the name of one set"
done
for name in stage stop_stage ngpu num_nodes cpu_processes nj inference_nj nbpe; do
    [[ ${!name} =~ ^[0-9]{1,9}$ ]] || die "--${name} ${!name}: give a whole number"
    printf -v "${name}" %d "$((10#${!name}))"  # 08 is no octal number
done
[ "${stage}" -le 14 ] || die "--stage ${stage}: the last stage is 14"
[ "${stage}" -le "${stop_stage}" ] ||
    die "--stop_stage ${stop_stage}: give at least --stage ${stage}; no stage would run"
for name in nj inference_nj num_nodes cpu_processes nbpe; do
    [ "${!name}" -ge 1 ] || die "--${name} ${!name}: give at least 1"
done
for name in asr_speech_fold_length asr_text_fold_length lm_fold_length batch_size; do
    [[ ${!name} =~ ^0*[1-9][0-9]{0,8}$ ]] || { [ "${name}" = batch_size ] && [ -z "${!name}" ]; } ||
        die "--${name} ${!name}: give a whole number, at least 1"
done
number='([0-9]+[.]?[0-9]*|[.][0-9]+)(e-?[0-9]+)?'
for name in min_wav_duration max_wav_duration max_unalignable plan_seconds; do
    [[ ${!name} =~ ^${number}$ || "${name} ${!name}" = "max_wav_duration inf" ]] ||
        die "--${name} ${!name}: give a number, 0 or more"
done
[[ ${bpe_char_cover} =~ ^(0?[.]0*[1-9][0-9]*|1([.]0*)?)$ ]] ||
    die "--bpe_char_cover ${bpe_char_cover}: give a number above 0, at most 1"
[[ ${speed_perturb_factors} =~ ^(\ *${number})*\ *$ ]] ||
    die "--speed_perturb_factors '${speed_perturb_factors}': give numbers, e.g. 0.9 1.0 1.1"
for name in skip_data_prep skip_train skip_eval skip_packing rerun gpu_inference download use_lm \
    use_ngram ignore_init_mismatch plan; do
    [[ ${!name} =~ ^(true|false)$ ]] || die "--${name} ${!name}: give true or false"
done
one_of() { [[ ${!1} != *" "* && " $2 " == *" ${!1} "* ]] || die "--$1 '${!1}': choose one of $2"; }
one_of token_type "bpe char"
one_of bpemode "unigram bpe"
one_of feats_type "raw extracted"
one_of upstream_device "cpu cuda"
one_of audio_format flac
one_of feats_normalize "global_mvn utterance_mvn"
one_of inference_tool "auto espnet ctc_greedy"

# A configuration is looked up in the recipe's folder, the caller's folder and conf/.
look_up() {  # FILE; sets `found`
    local place
    for place in "" "${ADASTRIDE_CALLER_DIR:-.}/" "${root}/" "${root}/conf/"; do
        found=${place}$1
        [ ! -f "${found}" ] || return 0
    done
    return 1
}
find_config() {  # NAME OF OPTION
    [ -z "${!1}" ] || look_up "${!1}" || die "--$1 ${!1}: no such file"
    [ -z "${!1}" ] || printf -v "$1" %s "${found}"
}
# Several files are merged into one before they are used.
asr_configs=() config_tag=train
find_training_config() {
    local word words
    [ -n "${asr_config}" ] || return 0
    words=("${asr_config}")
    look_up "${asr_config}" || read -ra words <<<"${asr_config}"
    config_tag=
    for word in "${words[@]}"; do
        look_up "${word}" || die "--asr_config ${word}: no such file"
        asr_configs+=("${found}")
        config_tag+=${config_tag:+_}$(basename "${word}" .yaml)
    done
    asr_config=${found}
    [ ${#asr_configs[@]} -eq 1 ] || asr_config=${expdir}/conf/${config_tag}.yaml
}
find_training_config
find_config lm_config
find_config inference_config

# Another file or folder is looked up in the recipe's folder and the caller's.
from_caller() {  # NAME OF OPTION; of PATH:..., the path
    local place=${ADASTRIDE_CALLER_DIR:-.}/${!1}
    [ -z "${!1}" ] || [ -e "${!1%%:*}" ] || [ ! -e "${place%%:*}" ] || printf -v "$1" %s "${place}"
}
for name in pretrained_model {bpe_train,lm_train,lm_dev,lm_test}_text; do from_caller "${name}"; done
[ "${nlsyms_txt}" = none ] || from_caller nlsyms_txt
[[ ${python} != */* ]] || from_caller python
if [[ ${upstream} == *:* ]]; then
    folder=${upstream#*:}
    from_caller folder
    upstream=${upstream%%:*}:${folder}
fi

if [ -x "${python}" ]; then python_cmd=("${python}"); else read -ra python_cmd <<<"${python}"; fi
command -v "${python_cmd[0]-}" >/dev/null || die "--python ${python}: not found"
if [ -n "${cuda_cmd}" ]; then
    command -v "${cuda_cmd%% *}" >/dev/null ||
        die "--cuda_cmd ${cuda_cmd}: ${cuda_cmd%% *} not found; ESPnet's and Kaldi's" \
            "slurm.pl, queue.pl ... are in their utils/: add it to the PATH"
fi
set -f  # split at spaces, no file name patterns
# shellcheck disable=SC2206
asr_words=(${asr_args}) lm_words=(${lm_args}) inference_words=(${inference_args})
# shellcheck disable=SC2206
data_words=(${local_data_opts}) tests=(${test_sets}) factors=(${speed_perturb_factors})
set +f
wanted() {
    [ "${stage}" -le "$1" ] && [ "$1" -le "${stop_stage}" ] || return 1
    if [ "$1" -le 5 ]; then ! "${skip_data_prep}"
    elif [ "$1" -le 11 ]; then ! "${skip_train}"
    elif [ "$1" -le 13 ]; then ! "${skip_eval}"
    else ! "${skip_packing}"; fi
}
for name in dumpdir expdir; do
    [ -n "${!name}" ] || die "--${name} '': give a folder"
done
for name in dumpdir train_set valid_set test_sets lm_dev_text lm_test_text; do
    [[ ${!name} != *,* ]] || die "--${name} ${!name}: ESPnet separates with commas; give" \
        "names without one, and sets separated by spaces"
done
[ "${max_wav_duration}" = inf ] ||
    awk "BEGIN { exit !(${min_wav_duration} < ${max_wav_duration}) }" ||
    die "--min_wav_duration ${min_wav_duration}: give less than --max_wav_duration" \
        "${max_wav_duration}"
# Text files are checked now; stage 1 may make those in data/ and dump/.
check_texts() {  # NAME OF OPTION
    local words=("${!1}") word made
    [ -n "${!1}" ] || return 0
    [ -f "${!1}" ] || read -ra words <<<"${!1}"
    for word in "${words[@]}"; do
        if [ ! -e "${word}" ]; then
            made=${word#"${PWD}/"}
            [[ ${made#./} == data/* || ${word} == "${dumpdir}"/* ]] ||
                die "--$1 ${word}: no such file"
        elif [ -f "${word}" ]; then
            grep -q '[^[:space:]]' "${word}" || die "--$1 ${word}: the file is empty"
        else
            die "--$1 ${word}: not a file"
        fi
    done
}
! wanted 5 || check_texts bpe_train_text
if ${use_lm} && wanted 6; then check_texts lm_train_text; fi
if ${use_lm} && { wanted 6 || wanted 7; }; then check_texts lm_dev_text; fi
if ${use_lm} && wanted 8; then check_texts lm_test_text; fi
if [ "${nlsyms_txt}" != none ] && [ ! -f "${nlsyms_txt}" ] && [[ ${nlsyms_txt} != data/* ]]; then
    die "--nlsyms_txt ${nlsyms_txt}: no such file"
fi
unique() {  # fills the array `sets`
    local name
    sets=()
    for name in "$@"; do [[ " ${sets[*]-} " == *" ${name} "* ]] || sets+=("${name}"); done
}
unique "${train_set}" "${valid_set}" "${tests[@]}"
prepared_sets=${sets[*]}
# From stage 3 on, the training set is the one with the perturbed copies.
spoken_set=${train_set} sp_tag=
if [ ${#factors[@]} -gt 0 ]; then
    train_set+=_sp sp_tag=_sp
    unique "${train_set}" "${valid_set}" "${tests[@]}"
fi

# ---------------------------------------------------------------- ESPnet's names
raw_feats=${dumpdir}/raw data_feats=${dumpdir}/${feats_type}
speech_scp=wav.scp speech_type=sound
[ "${feats_type}" = raw ] || { speech_scp=feats.scp speech_type=kaldi_ark; }
token_listdir=data/token_list
[ "${lang}" = noinfo ] || token_listdir=data/${lang}_token_list
case ${token_type} in
    bpe) token_dir=${token_listdir}/bpe_${bpemode}${nbpe} bpemodel=${token_dir}/bpe.model
         token_tag=bpe${nbpe} ;;
    char) token_dir=${token_listdir}/char bpemodel=none token_tag=char ;;
esac
token_list=${token_dir}/tokens.txt
lang_tag=
[ "${lang}" = noinfo ] || lang_tag=_${lang}
arguments_tag() { sed -e 's/--/_/g' -e 's/[ |=/]//g' <<<"$1"; }

if [ -z "${asr_tag}" ]; then
    asr_tag=${config_tag}_${feats_type}${lang_tag}_${token_tag}$(arguments_tag "${asr_args}")${sp_tag}
fi
: "${asr_exp:=${expdir}/asr_${asr_tag}}"
asr_exp=${asr_exp%/}
: "${asr_stats_dir:=${expdir}/asr_stats_${feats_type}${lang_tag}_${token_tag}${sp_tag}}"
if [ -z "${lm_tag}" ]; then
    lm_tag=train
    [ -z "${lm_config}" ] || lm_tag=$(basename "${lm_config}" .yaml)
    lm_tag+=${lang_tag}_${token_tag}$(arguments_tag "${lm_args}")
fi
: "${lm_exp:=${expdir}/lm_${lm_tag}}"
: "${lm_stats_dir:=${expdir}/lm_stats${lang_tag}_${token_tag}}"
lm_train=${data_feats}/lm_train.txt
if [ "${inference_tool}" = auto ]; then
    case $(basename "${inference_config}") in
        decode_ctc_greedy*) inference_tool=ctc_greedy ;;
        *) inference_tool=espnet ;;
    esac
fi
if ${use_lm} && [ "${inference_tool}" = ctc_greedy ]; then
    die "--use_lm true: greedy CTC cannot use a language model; select a beam search with" \
        "--inference_config, or give --use_lm false"
fi

# What cannot be written is reported now, not when its stage comes.
check_folder() {  # FOLDER OPTION
    local place=$1
    until [ -e "${place}" ]; do place=$(dirname -- "${place}"); done
    [ -d "${place}" ] || die "$1: ${place} is not a folder; move it away, or give another $2"
    { [ -w "${place}" ] && [ -x "${place}" ]; } ||
        die "$1: no permission to write in ${place}; change it, or give another $2"
}
check_folders() {
    local number
    if { wanted 1 && [ -f local/data.sh ]; } || wanted 2 || wanted 5; then
        check_folder data "recipe folder"
    fi
    if wanted 3 || wanted 4; then check_folder "${data_feats}" --dumpdir; fi
    if ${use_lm} && wanted 6; then
        check_folder "${data_feats}" --dumpdir
        check_folder "${lm_stats_dir}" "--expdir or --lm_stats_dir"
    fi
    if ${use_lm} && { wanted 7 || wanted 8; }; then
        check_folder "${lm_exp}" "--expdir or --lm_exp"
    fi
    ! wanted 10 || check_folder "${asr_stats_dir}" "--expdir or --asr_stats_dir"
    for number in 11 12 13 14; do
        ! wanted "${number}" || check_folder "${asr_exp}" "--expdir or --asr_exp"
    done
}
check_folders

# Configurations are checked before a folder is made, so that mistakes do not show up after
# hours of preparation. The model to decode with follows from them.
check_configurations() {
    local words=(--train false) command=
    if [ "${stage}" -le 11 ] && [ "${stop_stage}" -ge 10 ] && ! "${skip_train}"; then
        [ -n "${asr_config}${asr_args}" ] ||
            die "--asr_config is missing: name a training configuration," \
                "e.g. --asr_config train_asr_conformer.yaml (${root}/conf has more)"
        # PATH:SOURCE:TARGET:EXCLUDED
        [ -z "${pretrained_model}" ] || [ -f "${pretrained_model%%:*}" ] ||
            die "--pretrained_model ${pretrained_model%%:*}: no such file"
        words=(--train true "--arguments=${asr_args}"
            --option "normalize=${feats_normalize}" --option "cleaner=${cleaner}"
            --option "g2p=${g2p}" --config "${asr_configs[@]-}")
    fi
    if [ "${stage}" -le 12 ] && [ "${stop_stage}" -ge 12 ] && ! "${skip_eval}"; then
        case ${inference_tool} in
            ctc_greedy) command=espnet_adastride.bin.asr_inference_ctc ;;
            espnet) command=espnet2.bin.asr_inference ;;
        esac
    fi
    inference_asr_model=$("${python_cmd[@]}" -m espnet_adastride.bin.check_training \
        --action check "${words[@]}" --fs "${fs}" --exp "${asr_exp}" \
        --model "${inference_asr_model}" \
        --inference_command "${command}" --inference_config "${inference_config}" \
        "--inference_args=${inference_args}") || exit 1
    if ${use_lm} && [ "${stage}" -le 7 ] && [ "${stop_stage}" -ge 6 ]; then
        "${python_cmd[@]}" -m espnet_adastride.bin.check_training --action check \
            --task lm --config "${lm_config}" "--arguments=${lm_args}" >/dev/null || exit 1
    fi
}
check_configurations
# Without stage 1, which makes sets or says what is missing, a set that is nowhere is a typing
# error: it is named now, not after the training, and not as work left for an earlier stage.
check_sets() {
    local name folder option number made=() asked=()
    ! wanted 1 || return 0
    for folder in data/*/wav.scp {"${raw_feats}","${data_feats}"}{,/org}/*/.stage_done; do
        [ ! -f "${folder}" ] || made+=("$(basename "$(dirname "${folder}")")")
    done
    [ ${#made[@]} -gt 0 ] || return 0  # nothing is prepared yet: each stage says what it needs
    for number in 2 3 4 10 11; do
        ! wanted "${number}" || asked=("${spoken_set}" "${valid_set}")
    done
    if wanted 3 || wanted 12 || wanted 13 || { ${use_lm} && wanted 8; }; then
        asked+=("${tests[@]}")
    fi
    for name in ${asked[@]+"${asked[@]}"}; do
        # perturbed copies have a name of their own, which may be what is left
        [[ " ${made[*]} " != *" ${name} "* && " ${made[*]} " != *" ${name}${sp_tag} "* ]] || continue
        option=test_sets
        [ "${name}" != "${valid_set}" ] || option=valid_set
        [ "${name}" != "${spoken_set}" ] || option=train_set
        die "--${option} ${name}: no such set in ${PWD}/data or ${dumpdir}; there:" \
            "$(printf '%s\n' "${made[@]}" | LC_ALL=C sort -u | tr '\n' ' ' | sed 's/ $//')"\
"; name one of these, or make ${name} (stage 1)"
    done
}
check_sets
model_tag=${inference_asr_model//\//_} model_tag=${model_tag%.*}
if [ -z "${inference_tag}" ]; then
    inference_tag=inference
    [ -z "${inference_config}" ] || inference_tag=$(basename "${inference_config}" .yaml)
    inference_tag+=$(arguments_tag "${inference_args}")
    if ${use_lm}; then
        name=${inference_lm//\//_}
        inference_tag+=_lm_$(basename "${lm_exp}")_${name%.*}
    fi
    inference_tag+=_asr_model_${model_tag}
fi
packed_model=${asr_exp}/${asr_exp##*/}_${model_tag}.zip
check_name() {  # FOLDER OR FILE OPTION: 255 bytes is what disks take; some are added
    [ "$(printf %s "${1##*/}" | wc -c)" -le 230 ] ||
        die "${1##*/}: too long for the name of a folder or file; give a shorter $2"
}
! wanted 11 || check_name "${asr_exp}" --asr_tag
! wanted 12 || check_name "${inference_tag}" --inference_tag
! wanted 14 || check_name "${packed_model}" --asr_tag
if ${use_lm} && wanted 7; then check_name "${lm_exp}" --lm_tag; fi
# ESPnet filters training and validation sets by duration; test sets are not filtered.
evaluation_dir() {
    case $1 in
        "${train_set}" | "${valid_set}") echo "${data_feats}/org/$1" ;;
        *) echo "${data_feats}/$1" ;;
    esac
}
: "${lm_dev_text:=${data_feats}/org/${valid_set}/text}"
: "${lm_test_text:=$(evaluation_dir "${tests[0]}")/text}"

# ---------------------------------------------------------------- running things
child=
current=0
interrupted() {
    trap '' INT TERM
    [ -z "${child}" ] || { kill -TERM -- "-${child}" 2>/dev/null; wait "${child}"; } || true
    [ ! -t 1 ] || echo  # after the terminal's ^C
    log "Interrupted in stage ${current}; nothing is lost: run the same command" \
        "to resume (or --stage ${current})" >&2
    exit 130
}
trap interrupted INT TERM HUP

# In the background, so that a signal is handled at once; with job control, so that the
# command and its children are one process group.
run() {
    local status=0
    set -m
    "$@" &
    child=$!
    set +m
    wait "${child}" || status=$?
    child=
    [ "${status}" -ne 130 ] || interrupted  # the signal came to the command alone
    return "${status}"
}
ours() { local tool=$1; shift; run "${python_cmd[@]}" -m "espnet_adastride.bin.${tool}" "$@"; }
lock() {  # FOLDER: wait|refuse; held until unlock or the end of this process
    local wait=true
    [ "$2" = wait ] || wait=false
    { mkdir -p "$1" && : >>"$1/.lock"; } 2>/dev/null ||
        die "$1 cannot be written: make it writable, free some space, or use other folders" \
            "(--dumpdir, --expdir)"
    exec 9>>"$1/.lock"
    ours lock_folder --wait "${wait}" 9 "$1/.lock"
}
unlock() { exec 9>&-; }
is_done() {  # options of stage_stamp check
    local status=0
    ours stage_stamp check --rerun "${rerun}" "$@" || status=$?
    case ${status} in
        0) return 0 ;;
        3) return 1 ;;
        *) exit "${status}" ;;
    esac
}
# What was scored is no longer current: if the work that follows fails, no table shows it.
forget_scores() {  # FOLDER OF THE DECODED SET
    local page=${asr_exp}/RESULTS.md
    rm -rf "$1"/score_{wer,cer,ter} "$1/.scoring_done"
    # it is written again from all scores; another's file is left alone
    [[ ! -f ${page} || $(head -n 1 "${page}") != "<!-- Generated by "* ]] || rm "${page}"
}
need() { [ -e "$1" ] || die "$1 is missing: run $2 first"; }
# Fill the array `words` with FLAG WORD FLAG WORD ...
each() { local flag=$1 word; shift; words=(); for word in "$@"; do words+=("${flag}" "${word}"); done; }
later() { log "Stage $1: $2 is not implemented; $3"; }
made_with() { ours check_dump "$@"; }  # --stage N OPTION... FOLDER...

# ---------------------------------------------------------------- stages
# Without a script for the corpus, data/<set> must exist.
own_data() {
    local name made=()
    [ -z "${local_data_opts}" ] || die "--local_data_opts: there is no local/data.sh that would" \
        "take them; leave them out"
    ! "${download}" || die "--download true: there is no local/data.sh that would download; leave" \
        "it out"
    for name in data/*/wav.scp; do
        name=${name#data/}
        [ ! -f "data/${name}" ] || made+=("${name%/wav.scp}")
    done
    for name in "${sets[@]}"; do
        # a set with perturbed copies is made in stage 2
        [ "${name}" != "${train_set}" ] || name=${spoken_set}
        [ -f "data/${name}/wav.scp" ] ||
            die "${PWD}/data/${name} is missing (there: ${made[*]-none}): make it from" \
                "your recordings with adastride prepare (docs/own_recordings.md), name" \
                "the existing sets (--train_set, --valid_set, --test_sets), or" \
                "write local/data.sh"
    done
    echo "no local/data.sh: data/{${prepared_sets// /,}} are used unchanged"
}

stage_1() {
    if [ ! -f local/data.sh ]; then
        own_data
        return
    fi
    lock data wait
    run bash local/data.sh --sets "${prepared_sets}" --fs "${fs}" --nj "${nj}" \
        --python "${python}" --download "${download}" --rerun "${rerun}" \
        ${data_words[@]+"${data_words[@]}"}
    unlock
}

stage_2() {
    need "data/${spoken_set}/wav.scp" "stage 1"
    lock data wait
    ours perturb_speed --source "data/${spoken_set}" --output "data/${train_set}" \
        --nj "${nj}" --rerun "${rerun}" --factors "${factors[@]}"
    unlock
}

stage_3() {
    local name folder raw arguments=() extraction=()
    for name in "${sets[@]}"; do
        if [ "${name}" = "${train_set}" ] && [ -n "${sp_tag}" ]; then
            need "data/${name}/.stage_done" "stage 2"
            made_with --stage 2 --speed_perturb_factors "${factors[*]}" "data/${name}"
        fi
        need "data/${name}/wav.scp" "stage 1"
        folder=$(evaluation_dir "${name}")
        raw=${raw_feats}${folder#"${data_feats}"}
        arguments+=(--set "data/${name}" "${raw}")
        extraction+=(--set "${raw}" "${folder}")
    done
    lock "${raw_feats}" wait
    ours format_data "${arguments[@]}" --fs "${fs}" --nj "${nj}" --rerun "${rerun}"
    unlock
    [ "${feats_type}" = extracted ] || return 0
    lock "${data_feats}" wait
    ours extract_features "${extraction[@]}" --fs "${fs}" --nj "${nj}" \
        --rerun "${rerun}" --upstream "${upstream}" --layers "${upstream_layers}" \
        --device "${upstream_device}"
    unlock
}

stage_4() {
    local name arguments=()
    for name in "${train_set}" "${valid_set}"; do
        need "${data_feats}/org/${name}/.stage_done" "stage 3"
        arguments+=(--set "${data_feats}/org/${name}" "${data_feats}/${name}")
    done
    made_with --stage 3 --fs "${fs}" "${raw_feats}/org"/{"${train_set}","${valid_set}"}
    lock "${data_feats}" wait
    ours filter_data "${arguments[@]}" --fs "${fs}" --rerun "${rerun}" \
        --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}"
    unlock
}

# The text files of an option, one or several; empty: the training set's, with each
# sentence of perturbed copies only once.
text_files() {  # FILES OF THE OPTION; fills the array `texts`
    if [ -z "$1" ] && [ -n "${sp_tag}" ]; then
        texts=("data/${spoken_set}/text")
        need "${texts[0]}" "stage 1"
    elif [ -z "$1" ]; then
        texts=("${data_feats}/${train_set}/text")
        need "${texts[0]}" "stage 4"
    elif [ -f "$1" ]; then
        texts=("$1")
    else
        read -ra texts <<<"$1"
    fi
}

stage_5() {
    local texts words name checks=()
    text_files "${bpe_train_text}"
    each --text "${texts[@]}"
    for name in "${sets[@]}"; do
        [ "${name}" != "${train_set}" ] || continue
        [ ! -f "$(evaluation_dir "${name}")/text" ] ||
            checks+=(--check_text "$(evaluation_dir "${name}")/text")
    done
    lock "${token_listdir}" wait
    ours make_token_list "${words[@]}" --output "${token_dir}" \
        --token_type "${token_type}" --nbpe "${nbpe}" --bpemode "${bpemode}" \
        --bpe_char_cover "${bpe_char_cover}" --bpe_nlsyms "${bpe_nlsyms}" \
        --cleaner "${cleaner}" --nlsyms_txt "${nlsyms_txt}" \
        ${checks[@]+"${checks[@]}"} --rerun "${rerun}"
    unlock
}

# What changes the tokens of a text; recorded only if given, as earlier versions did not.
text_words=()
[ "${cleaner}" = none ] || text_words+=(--option "cleaner=${cleaner}")
[ "${nlsyms_txt}" = none ] || text_words+=(--input "${nlsyms_txt}")

# Options that a task's statistics and training share; fills the array `common`.
text_options() {
    common=(
        --use_preprocessor true --bpemodel "${bpemodel}" --token_type "${token_type}"
        --token_list "${token_list}" --non_linguistic_symbols "${nlsyms_txt}"
        --cleaner "${cleaner}" --g2p "${g2p}"
    )
}
upstream_options() {  # FOLDER: the options that its features need
    "${python_cmd[@]}" -m espnet_adastride.bin.extract_features --training_options "$1"
}
common_training_options() {
    local words
    text_options
    common+=(
        --valid_data_path_and_name_and_type
        "${data_feats}/${valid_set}/${speech_scp},speech,${speech_type}"
        --valid_data_path_and_name_and_type "${data_feats}/${valid_set}/text,text,text"
        --train_data_path_and_name_and_type
        "${data_feats}/${train_set}/${speech_scp},speech,${speech_type}"
        --train_data_path_and_name_and_type "${data_feats}/${train_set}/text,text,text"
    )
    [ -z "${asr_config}" ] || common+=(--config "${asr_config}")
    if [ "${feats_type}" = raw ]; then
        common+=(--frontend_conf "fs=${fs}")
    else  # no frontend
        words=$(upstream_options "${data_feats}/${train_set}") || exit 1
        # shellcheck disable=SC2206
        common+=(${words})
    fi
    common+=(${asr_words[@]+"${asr_words[@]}"})
}
common_lm_options() {
    text_options
    common+=(
        --valid_data_path_and_name_and_type "${lm_dev_text},text,text"
        --train_data_path_and_name_and_type "${lm_train},text,text"
    )
    [ -z "${lm_config}" ] || common+=(--config "${lm_config}")
    common+=(${lm_words[@]+"${lm_words[@]}"})
}
# The files on which statistics and training depend; fills the array `training_files`.
training_data_files() {
    local name words=()
    training_files=("${token_list}")
    [ "${bpemodel}" = none ] || training_files+=("${bpemodel}")
    for name in "${train_set}" "${valid_set}"; do
        need "${data_feats}/${name}/.stage_done" "stage 4"
        training_files+=("${data_feats}/${name}"/{"${speech_scp}",text})
        [ "${feats_type}" = raw ] || training_files+=("${data_feats}/${name}/upstream.yaml")
    done
    need "${token_list}" "stage 5"
    [ -z "${sp_tag}" ] ||
        made_with --stage 2 --speed_perturb_factors "${factors[*]}" "data/${train_set}"
    [ "${feats_type}" = raw ] ||
        words=(--upstream "${upstream}" --layers "${upstream_layers}")
    made_with --stage 4 --fs "${fs}" --min_wav_duration "${min_wav_duration}" \
        --max_wav_duration "${max_wav_duration}" ${words[@]+"${words[@]}"} \
        "${data_feats}"/{"${train_set}","${valid_set}"}
}

# Statistics of a task in parallel jobs, joined; the array `common` holds its options.
collect_statistics() {  # asr|lm FOLDER TRAINING-LIST VALIDATION-LIST [--text_only true]
    local task=$1 folder=$2 lists=("$3" "$4") logdir=$2/logdir jobs job words=()
    shift 4
    rm -rf "${logdir}"
    jobs=$("${python_cmd[@]}" -m espnet_adastride.bin.split_scp --nj "${nj}" \
        --split "${lists[0]}" "${logdir}/train.JOB.scp" \
        --split "${lists[1]}" "${logdir}/valid.JOB.scp")
    log "collecting statistics in ${jobs} jobs, logs: ${logdir}/stats.*.log"
    ours run_jobs "JOB=1:${jobs}" "${logdir}/stats.JOB.log" \
        "${python_cmd[@]}" -m espnet_adastride.bin.run -m "espnet2.bin.${task}_train" \
        --collect_stats true "${common[@]}" \
        --train_shape_file "${logdir}/train.JOB.scp" \
        --valid_shape_file "${logdir}/valid.JOB.scp" \
        --output_dir "${logdir}/stats.JOB"
    for job in $(seq "${jobs}"); do words+=(--input_dir "${logdir}/stats.${job}"); done
    ours run_jobs "${logdir}/aggregate.log" \
        "${python_cmd[@]}" -m espnet2.bin.aggregate_stats_dirs "${words[@]}" \
        --output_dir "${logdir}/joined"
    ours finish_statistics --input_dir "${logdir}/joined" --output_dir "${folder}" \
        --token_type "${token_type}" --token_list "${token_list}" "$@"
}

# Training processes in all, which share each batch.
processes=$((ngpu * num_nodes))
[ "${ngpu}" -gt 0 ] || processes=${cpu_processes}

# Train a task; the array `common` holds its options.
train() {  # asr|lm FOLDER FURTHER-OPTION...
    local task=$1 folder=$2 start=() trainer runner words
    shift 2
    # a schedule made for less speech would end too early
    words=$("${python_cmd[@]}" -m espnet_adastride.bin.fit_schedule --task "${task}" \
        --processes "${processes}" "$@" "${common[@]}") || exit 1
    # shellcheck disable=SC2206
    common+=(${words})
    # ESPnet reads rank and address from the environment that torchrun sets
    if [ "${ngpu}" -eq 0 ] && [ "${cpu_processes}" -gt 1 ]; then
        start=(-m torch.distributed.run --standalone --nproc_per_node "${cpu_processes}")
    fi
    trainer=(
        "${python_cmd[@]}" ${start[@]+"${start[@]}"}
        -m espnet_adastride.bin.run -m "espnet2.bin.${task}_train"
        --resume true --output_dir "${folder}" "$@" "${common[@]}"
    )
    log "training, log: ${folder}/train.log"
    if [ "${ngpu}" -le 1 ] && [ "${num_nodes}" -eq 1 ]; then
        ours run_jobs --rotate true --training_log "${folder}/train.log" \
            "${folder}/train.log" "${trainer[@]}" --ngpu "${ngpu}" \
            ${start[@]+--multiprocessing_distributed false --dist_backend gloo}
    else
        runner=${cuda_cmd}
        if [ -z "${runner}" ]; then
            runner=$(printf '%q ' "${python_cmd[@]}" -m espnet_adastride.bin.run_jobs)
        fi
        ours run_jobs --grace 20 --training_log "${folder}/train.log" \
            "${folder}/launch.log" "${python_cmd[@]}" -m espnet2.bin.launch \
            --cmd "${runner} --name $(printf %q "${folder##*/}")" --log "${folder}/train.log" \
            --ngpu "${ngpu}" --num_nodes "${num_nodes}" \
            --init_file_prefix "${folder}/.dist_init_" \
            --multiprocessing_distributed true -- "${trainer[@]}"
    fi
}

stage_6() {
    local texts words stamp common file
    need "${token_list}" "stage 5"
    need "${lm_dev_text}" "stage 3"
    text_files "${lm_train_text}"
    for file in "${texts[@]}"; do
        [ -f "${file}" ] || die "--lm_train_text ${file}: no such file"
    done
    each --input "${texts[@]}" "${lm_dev_text}" "${token_list}"
    [ "${bpemodel}" = none ] || words+=(--input "${bpemodel}")
    stamp=(--stamp "${lm_stats_dir}/.stage_done")
    lock "${lm_stats_dir}" wait
    words+=(${text_words[@]+"${text_words[@]}"})
    if ! is_done "${stamp[@]}" "${words[@]}" --option "token_type=${token_type}"; then
        ours join_texts --output "${lm_train}" "${texts[@]}"
        common_lm_options
        collect_statistics lm "${lm_stats_dir}" "${lm_train}" "${lm_dev_text}" \
            --text_only true
        ours stage_stamp write "${stamp[@]}" --summary "${lm_stats_dir}" \
            --output "${lm_train}" \
            --output "${lm_stats_dir}/train/text_shape.${token_type}" \
            --output "${lm_stats_dir}/valid/text_shape.${token_type}"
    fi
    unlock
}

# unusual NAME=VALUE DEFAULT: record an option of a training, unless it has its default:
# earlier versions did not record these. Adds to words.
unusual() {
    [ "${1#*=}" = "$2" ] || words+=(--option "$1")
}

stage_7() {
    local words stamp common files
    files=("${lm_train}" "${lm_dev_text}" "${token_list}"
        "${lm_stats_dir}"/{train,valid}/"text_shape.${token_type}")
    need "${lm_stats_dir}/.stage_done" "stage 6"
    lock "${lm_exp}" refuse
    each --input "${files[@]}"
    unusual "lm_fold_length=${lm_fold_length}" 150
    ours check_training --action start --config "${lm_config}" "--arguments=${lm_args}" \
        --exp "${lm_exp}" "${words[@]}" --option "token_type=${token_type}" \
        ${text_words[@]+"${text_words[@]}"}
    stamp=(--stamp "${lm_exp}/.stage_done")
    if ! is_done "${stamp[@]}" --input "${lm_exp}/.training.json"; then
        common_lm_options
        train lm "${lm_exp}" --fold_length "${lm_fold_length}" \
            --train_shape_file "${lm_stats_dir}/train/text_shape.${token_type}" \
            --valid_shape_file "${lm_stats_dir}/valid/text_shape.${token_type}"
        ours stage_stamp write "${stamp[@]}" --summary "${lm_exp}: trained" \
            --output "${lm_exp}/config.yaml" --output "${lm_exp}/*.ave.pth"
    fi
    unlock
}

stage_8() {
    local output=${lm_exp}/perplexity_test model=${lm_exp}/${inference_lm} summary
    need "${model}" "stage 7"
    need "${lm_test_text}" "stage 3"
    lock "${lm_exp}" refuse
    if ! is_done --stamp "${output}/.stage_done" --input "${model}" \
        --input "${lm_test_text}"; then
        rm -f "${output}"/*  # not the pending stamp, .stage_done.pending
        ours run_jobs "${output}/lm_calc_perplexity.log" \
            "${python_cmd[@]}" -m espnet_adastride.bin.run \
            -m espnet2.bin.lm_calc_perplexity --ngpu 0 \
            --data_path_and_name_and_type "${lm_test_text},text,text" \
            --train_config "${lm_exp}/config.yaml" --model_file "${model}" \
            --output_dir "${output}"
        summary="perplexity of ${lm_test_text}: $(LC_ALL=C printf %.3f "$(<"${output}/ppl")")"
        summary+=" per token"
        ours stage_stamp write --stamp "${output}/.stage_done" --output "${output}/ppl" \
            --summary "${summary}"
        echo "${summary}"
    fi
    unlock
}

stage_10() {
    local options common training_files words stamp
    training_data_files
    options=$("${python_cmd[@]}" -m espnet_adastride.bin.check_training --action read \
        --config "${asr_config}" "--arguments=${asr_args}")
    each --input "${training_files[@]}"
    stamp=(--stamp "${asr_stats_dir}/.stage_done")
    lock "${asr_stats_dir}" wait
    if ! is_done "${stamp[@]}" "${words[@]}" --option "fs=${fs}" \
        --audio "${raw_feats}/org/${train_set}" --audio "${raw_feats}/org/${valid_set}" \
        --option "token_type=${token_type}" --option "configuration=${options}" \
        ${text_words[@]+"${text_words[@]}"}; then
        common_training_options
        collect_statistics asr "${asr_stats_dir}" \
            "${data_feats}/${train_set}/${speech_scp}" \
            "${data_feats}/${valid_set}/${speech_scp}"
        ours stage_stamp write "${stamp[@]}" --summary "${asr_stats_dir}" \
            --output "${asr_stats_dir}/train/feats_stats.npz" \
            --output "${asr_stats_dir}/train/speech_shape" \
            --output "${asr_stats_dir}/train/text_shape.${token_type}" \
            --output "${asr_stats_dir}/valid/speech_shape" \
            --output "${asr_stats_dir}/valid/text_shape.${token_type}"
    fi
    unlock
}

# Write the plan of a training; reject what cannot work. Takes the options of the training;
# the array `common` holds the others.
plan_training() {
    local page=${asr_exp}/plan.md stamp=(--stamp "${asr_exp}/.plan_done")
    if ! is_done "${stamp[@]}" --input "${asr_exp}/.training.json" \
        --option "ngpu=${ngpu}" --option "processes=${processes}" \
        --option "max_unalignable=${max_unalignable}" \
        --option "plan_seconds=${plan_seconds}"; then
        log "planning the training, log: ${asr_exp}/plan.log"
        ours run_jobs "${asr_exp}/plan.log" \
            "${python_cmd[@]}" -m espnet_adastride.bin.run \
            -m espnet_adastride.bin.plan_training --plan "${page}" \
            --processes "${processes}" --max_unalignable "${max_unalignable}" \
            --plan_seconds "${plan_seconds}" --ngpu "${ngpu}" \
            --output_dir "${asr_exp}" "$@" "${common[@]}"
        cat "${page}"
        ours stage_stamp write "${stamp[@]}" --summary "${page}" --output "${page}"
    fi
}

stage_11() {
    local name common training_files words stamp options
    local speech=speech_shape text=text_shape.${token_type}
    training_data_files
    for name in {train,valid}/{"${speech}","${text}"} train/feats_stats.npz; do
        need "${asr_stats_dir}/${name}" "stage 10"
    done
    training_files+=("${asr_stats_dir}/train"/{"${speech}","${text}",feats_stats.npz})
    lock "${asr_exp}" refuse
    each --input "${training_files[@]}"
    unusual "asr_speech_fold_length=${asr_speech_fold_length}" 800
    unusual "asr_text_fold_length=${asr_text_fold_length}" 150
    unusual "ignore_init_mismatch=${ignore_init_mismatch}" false
    [ "${feats_normalize}" != global_mvn ] || words+=(--statistics "${asr_stats_dir}")
    ours check_training --action start --config "${asr_config}" \
        "--arguments=${asr_args}" --exp "${asr_exp}" "${words[@]}" \
        --option "fs=${fs}" --option "token_type=${token_type}" \
        --option "feats_normalize=${feats_normalize}" \
        --option "pretrained_model=${pretrained_model}" \
        ${text_words[@]+"${text_words[@]}"}
    stamp=(--stamp "${asr_exp}/.stage_done")
    if ! is_done "${stamp[@]}" --input "${asr_exp}/.training.json"; then
        options=(
            --valid_shape_file "${asr_stats_dir}/valid/${speech}"
            --valid_shape_file "${asr_stats_dir}/valid/${text}"
            --train_shape_file "${asr_stats_dir}/train/${speech}"
            --train_shape_file "${asr_stats_dir}/train/${text}"
            --fold_length "$((asr_speech_fold_length * 100))"
            --fold_length "${asr_text_fold_length}"
            --ignore_init_mismatch "${ignore_init_mismatch}"
        )
        [ -z "${pretrained_model}" ] || options+=(--init_param "${pretrained_model}")
        if [ "${feats_normalize}" = global_mvn ]; then
            # a copy: stage 10 may make those of another frontend in the same place
            cp "${asr_stats_dir}/train/feats_stats.npz" "${asr_exp}/feats_stats.npz"
            options+=(--normalize global_mvn
                --normalize_conf "stats_file=${asr_exp}/feats_stats.npz")
        fi
        common_training_options
        # the packed model needs the upstream of its features to transcribe recordings
        [ "${feats_type}" = raw ] ||
            cp "${data_feats}/${train_set}/upstream.yaml" "${asr_exp}/upstream.yaml"
        words=()
        [ "${feats_type}" = raw ] || words=(--upstream "${asr_exp}/upstream.yaml")
        ours training_lengths --shape_file "${asr_stats_dir}/train/${speech}" \
            --fs "${fs}" ${words[@]+"${words[@]}"} --output_dir "${asr_exp}"
        ! "${plan}" || plan_training "${options[@]}"
        train asr "${asr_exp}" "${options[@]}"
        ours stage_stamp write "${stamp[@]}" --summary "${asr_exp}: trained" \
            --output "${asr_exp}/config.yaml" --output "${asr_exp}/*.ave.pth"
    fi
    unlock
}

need_model() {
    local file models=() others=() advice=
    [ ! -f "${asr_exp}/${inference_asr_model}" ] || return 0
    for file in "${asr_exp}"/*.pth; do [ ! -f "${file}" ] || models+=("${file##*/}"); done
    for file in "${expdir}"/asr_*/config.yaml; do
        [ ! -f "${file}" ] || others+=("$(dirname "${file}")")
    done
    if [ ${#models[@]} -gt 0 ]; then
        advice=", or choose with --inference_asr_model one of: ${models[*]}"
    elif [ ${#others[@]} -gt 0 ]; then
        advice=", or name another experiment, as in its training (--asr_config, --asr_args,"
        advice+=" --asr_tag, --asr_exp); there: ${others[*]}"
    fi
    die "${asr_exp}/${inference_asr_model} is missing: run stage 11 first${advice}"
}

stage_12() {
    local name data output logdir jobs tool options=() stamp model lm_inputs=() folders=()
    need_model
    model=${asr_exp}/${inference_asr_model}
    case ${inference_tool} in
        ctc_greedy) tool=(-m espnet_adastride.bin.asr_inference_ctc) ;;
        espnet)
            tool=(-m espnet_adastride.bin.run -m espnet2.bin.asr_inference)
            # the number of tokens, which limits the beam, may be new since the first check
            ours check_training --action check --train false --exp "${asr_exp}" \
                --inference_command espnet2.bin.asr_inference \
                --inference_config "${inference_config}" \
                "--inference_args=${inference_args}" >/dev/null
            ;;
    esac
    [ -z "${inference_config}" ] || options+=(--config "${inference_config}")
    [ -z "${batch_size}" ] || options+=(--batch_size "${batch_size}")
    if ${gpu_inference}; then options+=(--ngpu 1); else options+=(--ngpu 0); fi
    if ${use_lm}; then
        need "${lm_exp}/${inference_lm}" "stage 7"
        options+=(--lm_train_config "${lm_exp}/config.yaml"
            --lm_file "${lm_exp}/${inference_lm}")
        lm_inputs=(--input "${lm_exp}/config.yaml" --input "${lm_exp}/${inference_lm}")
    fi
    for name in "${tests[@]}"; do
        data=$(evaluation_dir "${name}")
        need "${data}/.stage_done" "stage 3"
        folders+=("${data}")
    done
    made_with --fs "${fs}" --model "${asr_exp}" "${folders[@]}"
    lock "${asr_exp}/${inference_tag}" refuse
    for name in "${tests[@]}"; do
        data=$(evaluation_dir "${name}")
        output=${asr_exp}/${inference_tag}/${name}
        logdir=${output}/logdir
        stamp=(--stamp "${output}/.decoding_done")
        if is_done "${stamp[@]}" --input "${data}/${speech_scp}" --input "${model}" \
            --audio "${raw_feats}${data#"${data_feats}"}" \
            --input "${asr_exp}/config.yaml" --input "${inference_config}" \
            ${lm_inputs[@]+"${lm_inputs[@]}"} \
            --option "inference_args=${inference_args}" \
            --option "inference_tool=${inference_tool}"; then
            continue
        fi
        forget_scores "${output}"
        rm -rf "${logdir}"
        jobs=$("${python_cmd[@]}" -m espnet_adastride.bin.split_scp \
            --nj "${inference_nj}" --split "${data}/${speech_scp}" "${logdir}/keys.JOB.scp")
        log "decoding ${name} in ${jobs} jobs, logs: ${logdir}/asr_inference.*.log"
        ours run_jobs --decoding_dir "${logdir}" --total "$(wc -l <"${data}/wav.scp")" \
            "JOB=1:${jobs}" "${logdir}/asr_inference.JOB.log" \
            "${python_cmd[@]}" "${tool[@]}" \
            --data_path_and_name_and_type "${data}/${speech_scp},speech,${speech_type}" \
            --key_file "${logdir}/keys.JOB.scp" \
            --asr_train_config "${asr_exp}/config.yaml" --asr_model_file "${model}" \
            --output_dir "${logdir}/output.JOB" "${options[@]}" \
            ${inference_words[@]+"${inference_words[@]}"}
        ours join_decoded --logdir "${logdir}" --data "${data}" \
            --output_dir "${output}" --fs "${fs}"
        ours stage_stamp write "${stamp[@]}" --summary "${output}/text" \
            --output "${output}/text"
    done
    unlock
}

stage_13() {
    local name data output inputs arguments
    [ -d "${asr_exp}" ] || need_model
    for name in "${tests[@]}"; do  # before the lock makes a folder
        need "${asr_exp}/${inference_tag}/${name}/.decoding_done" "stage 12"
    done
    lock "${asr_exp}/${inference_tag}" refuse
    for name in "${tests[@]}"; do
        data=$(evaluation_dir "${name}")
        output=${asr_exp}/${inference_tag}/${name}
        arguments=(--token_type "${token_type}" --cleaner "${cleaner}"
            --nlsyms_txt "${nlsyms_txt}")
        inputs=(--input "${data}/text" --input "${output}/text"
            ${text_words[@]+"${text_words[@]}"})
        if [ "${bpemodel}" != none ]; then
            arguments+=(--bpemodel "${bpemodel}")
            inputs+=(--input "${bpemodel}")
        fi
        if ! is_done --stamp "${output}/.scoring_done" "${inputs[@]}"; then
            forget_scores "${output}"
            ours score --ref "${data}/text" --hyp "${output}/text" --output "${output}" \
                "${arguments[@]}"
            ours stage_stamp write --stamp "${output}/.scoring_done" \
                --output "${output}/score_wer/result.txt" \
                --output "${output}/score_cer/result.txt" \
                --summary "${output}/score_{wer,cer,ter}/result.txt"
        fi
    done
    unlock
    ours score --results "${asr_exp}"
}

stage_14() {
    local stamp files options=() words file
    need_model
    files=("${asr_exp}/config.yaml" "${asr_exp}/${inference_asr_model}")
    options=(--asr_train_config "${files[0]}" --asr_model_file "${files[1]}")
    if ${use_lm}; then
        need "${lm_exp}/${inference_lm}" "stage 7"
        files+=("${lm_exp}/config.yaml" "${lm_exp}/${inference_lm}")
        options+=(--lm_train_config "${lm_exp}/config.yaml"
            --lm_file "${lm_exp}/${inference_lm}")
    fi
    each --option
    for file in "${bpemodel}" "${nlsyms_txt}"; do
        [ "${file}" = none ] || words+=(--option "${file}")
    done
    if [ "${feats_normalize}" = global_mvn ]; then
        file=${asr_exp}/feats_stats.npz  # earlier versions made no copy
        [ -f "${file}" ] || file=${asr_stats_dir}/train/feats_stats.npz
        words+=(--option "${file}")
    fi
    [ "${feats_type}" = raw ] || words+=(--option "${asr_exp}/upstream.yaml")
    if [ -f "${asr_exp}/RESULTS.md" ]; then
        # RESULTS.md contains the date on which it was written
        for file in "${asr_exp}"/*/*/score_wer/result.txt; do files+=("${file}"); done
        options+=(--results "${asr_exp}/RESULTS.md")
        words+=(--option "${asr_exp}/RESULTS.md")
    fi
    options+=(${words[@]+"${words[@]}"})
    lock "${asr_exp}" refuse
    each --input "${files[@]}"
    stamp=(--stamp "${asr_exp}/.packing_done")
    if ! is_done "${stamp[@]}" "${words[@]}" --option "license=${model_license}" \
        --option "archive=${packed_model}"; then
        ours run_jobs "${asr_exp}/pack.log" \
            "${python_cmd[@]}" -m espnet_adastride.bin.run \
            -m espnet_adastride.bin.pack_model "${options[@]}" \
            --license "${model_license}" --lang "${lang}" --outpath "${packed_model}"
        tail -n 1 "${asr_exp}/pack.log"
        ours stage_stamp write "${stamp[@]}" --summary "${packed_model}" \
            --output "${packed_model}" --output "${asr_exp}/README.md"
    fi
    unlock
}

# ---------------------------------------------------------------- main
titles=(
    [1]="Data preparation: data/{${prepared_sets}}"
    [2]="Speed perturbation: data/${spoken_set} -> data/${train_set}"
    [3]="Check and format audio: data -> ${raw_feats}"
    [4]="Remove long and short utterances: ${data_feats}/org -> ${data_feats}"
    [5]="Token list: ${token_list}"
    [6]="Statistics of the language model: ${lm_stats_dir}"
    [7]="Training of the language model: ${lm_exp}"
    [8]="Perplexity of the language model: ${lm_test_text}"
    [10]="Statistics: ${asr_stats_dir}"
    [11]="Training: ${asr_exp}"
    [12]="Decoding: ${asr_exp}/${inference_tag} (${inference_tool})"
    [13]="Scoring: ${asr_exp}/RESULTS.md"
    [14]="Packing: ${packed_model}"
)
[ "${feats_type}" = raw ] ||
    titles[3]+="; features of ${upstream} -> ${data_feats}"
if [ ${#asr_configs[@]} -gt 1 ] && [ "${stage}" -le 11 ] && [ "${stop_stage}" -ge 10 ]; then
    ours check_training --action merge --config "${asr_configs[@]}" --output "${asr_config}"
fi
if [ "${feats_type}" = extracted ] && [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ] &&
    ! "${skip_data_prep}"; then
    ours extract_features --check "${upstream}"
fi
# Stages 10 and 11 try all values, but perhaps after hours of preparation.
if [ "${stage}" -le 9 ] && wanted 10 && [ ! -e "${asr_stats_dir}/.stage_done" ]; then
    frontend=true
    [ "${feats_type}" = raw ] || frontend=false
    ours check_model --config "${asr_configs[@]-}" "--arguments=${asr_args}" \
        --frontend "${frontend}"
fi
worked=false
for current in $(seq 1 14); do
    wanted "${current}" || continue
    case ${current} in
        9) ! "${use_ngram}" || { worked=true; later 9 "the n-gram model" "continuing without"; } ;;
        [1-8] | 1[0-4])
            [[ ${current} != [678] ]] || ${use_lm} || continue
            [ "${current}" -ne 2 ] || [ -n "${sp_tag}" ] || continue
            worked=true
            log "Stage ${current}: ${titles[current]}"
            started=${SECONDS}
            "stage_${current}"
            log "Stage ${current}: finished in $((SECONDS - started)) s" ;;
    esac
done
"${worked}" || log "Nothing to do: stage 2 needs --speed_perturb_factors, 6-8 need --use_lm true," \
    "and --skip_... leave out others"
