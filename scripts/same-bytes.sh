#!/usr/bin/env bash
# Do two builds of glioseg compute the same bytes?
#
#   scripts/same-bytes.sh [OPTIONS] OLD NEW
#
# Both programs do the same work on the same inputs, one part after the other, and their results are compared: label maps, arrays of
# npz files, tensors, scores. Times, paths, versions, messages and pictures do not count (same_bytes.py says exactly what does). Prints
# a line per part: `same`, `DIFFERENT: file: first difference`, or `skipped: why`. Needs bash and Python 3.
#
#   --only PART       only this part, or all parts whose name begins with it, such as `train-`; can be given several times
#   --list            names of the parts
#   --allow-missing   parts whose golden data are missing do not count as a failure
#   --keep DIR        keep inputs, results and logs in this (new) folder
#
# Golden data are looked for in $GLIOSEG_SHARED/golden, else in ../shared/golden next to the checkout.
# Exit code: 0 all parts are the same, 1 some part differs or was skipped, 2 wrong usage.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
golden=${GLIOSEG_SHARED:-$here/../../shared}/golden
fixtures=$here/../fixtures

# What a part does with the program at hand. It runs in an empty folder, of the same path for both programs, and what it leaves
# there is compared. `glio` runs the program; $in holds the phantoms; $models holds models that OLD has trained.

part_phantom() {
    glio phantom --cases 2 --size 32 --seed 5 --out nnunet
    glio phantom --cases 1 --size 32 --seed 5 --layout brats --out brats
}
part_plan() {
    glio fingerprint "$in/phantoms" -o plans
    for planner in default resenc-m resenc-l brats21; do
        glio plan "$in/phantoms" --planner "$planner" -o plans
    done
}
part_prep() {
    measured default brats21
    glio plan "$in/phantoms" -o default
    glio prep "$in/phantoms" -c 2d,3d_fullres -o default
    glio plan "$in/phantoms" --planner brats21 -o brats21
    glio prep "$in/phantoms" -p nnUNetPlansv2.1 -o brats21
}

part_predict_phantom() { predict "$fixtures/phantom-model" "$in/cases" phantom --uncertainty --labels brats2023; }
part_predict_iso() {
    needs pipeline/iso
    predict "$golden/pipeline/iso/model" "$golden/pipeline/iso/raw/imagesTs" iso
}
part_predict_aniso() {
    needs pipeline/aniso
    predict "$golden/pipeline/aniso/model" "$golden/pipeline/aniso/raw/imagesTs" aniso
}
part_predict_single() {
    needs pipeline/iso
    needs v1
    predict "$golden/pipeline/iso/model" "$golden/pipeline/iso/raw/imagesTs" iso --accumulation single
    predict "$golden/v1/BL" "$(case_of iso case_03)" v1 --accumulation single --no-mirroring
}
part_predict_uncertainty() {
    needs pipeline/iso
    needs v1
    predict "$golden/pipeline/iso/model" "$golden/pipeline/iso/raw/imagesTs" iso --uncertainty --no-mirroring
    predict "$golden/v1/BL" "$(case_of iso case_03)" v1 --uncertainty --no-mirroring -f 0
}
part_predict_v1() {
    needs v1
    predict "$golden/v1/BL" "$(case_of iso case_03)" BL
    for model in BL_L BL_GN BL_AA; do
        predict "$golden/v1/$model" "$(case_of iso case_03)" "$model" --no-mirroring
    done
    predict "$golden/v1/masked/BL" "$golden/v1/masked/raw/imagesTs" masked --no-mirroring
    predict "$golden/v1/BL" "$golden/v1/other_grids/raw" other_grids --no-mirroring -f 0
}
part_predict_2d() {
    trained 2d
    predict "$models/2d" "$in/cases" 2d
}
part_predict_resenc() {
    trained resenc
    predict "$models/resenc" "$in/cases" resenc --step 0.7
}
part_predict_recipe() {
    needs v1
    predict "$golden/v1/BL" "$(case_of iso case_03)" submission -m "$golden/v1/BL_L_GN" --recipe brats21 --no-mirroring
}

part_train_default() { training "${tiny[@]}"; }
part_train_2d() { training "${flat[@]}"; }
part_train_resenc() { training "${resenc[@]}"; }
part_train_adamw() { training "${tiny[@]}" --optimiser adamw --lr 0.001 --augmentation da5; }
part_train_dropout() {
    training "${tiny[@]}" --set "$arch.dropout_op=\"torch.nn.modules.dropout.Dropout3d\"" --set "$arch.dropout_op_kwargs={\"p\": 0.2}"
}
part_train_demo() { training --preset demo --patch 32,32,32; }
part_train_bl() { training --preset bl "${narrow[@]}"; }
part_train_bl_l() { training --preset bl-l "${narrow[@]}"; }
part_train_bl_gn() { training --preset bl-gn "${narrow[@]}" --set "$arch.norm_op_kwargs.num_groups=4"; }
part_train_bl_l_gn() { training --preset bl-l-gn "${narrow[@]}" --set "$arch.norm_op_kwargs.num_groups=4"; }
part_train_bl_aa() { training --preset bl-aa "${narrow[@]}"; }
part_train_aa_everywhere() { training --preset bl-aa "${narrow[@]}" --set "$arch.axial_attention.place=\"everywhere\""; }
part_train_aa_residual() { training --preset bl-aa "${narrow[@]}" --set "$arch.axial_attention.place=\"everywhere_residual\""; }

# A training that OLD began goes on with the program at hand.
part_resume_old() {
    begun
    write_presets .
    cp -r "$models/begun" run
    glio train "$in/phantoms" --preprocessed "$models/begun-pre" -o run "${tiny[@]}" "${short[@]}" --resume
}

part_crossval() {
    write_presets .
    measured pre
    glio crossval "$in/phantoms" --preprocessed pre -o folds "${tiny[@]}" --folds 0,1 --epochs 1 --iterations 2 --val-iterations 1
    glio crossval "$in/phantoms" --preprocessed pre -o pairs -c 3d_fullres,2d --folds 0 --batch 2 --epochs 1 --iterations 1 \
        --val-iterations 1
}
part_evaluate() {
    needs pipeline/iso
    for run in predicted predicted_no_mirroring; do
        glio evaluate --ref "$golden/pipeline/iso/raw/labelsTs" --pred "$golden/pipeline/iso/$run" -o "$run" --bootstrap 200
    done
    glio evaluate --ref "$in/phantoms/labelsTr" --pred "$in/phantoms/labelsTr" --dataset "$in/phantoms/dataset.json" -o phantoms
}
part_ensemble() {
    needs pipeline/iso
    needs v1
    glio ensemble -i "$golden"/pipeline/iso/{predicted,predicted_no_mirroring} -o v2 --save-probabilities
    glio ensemble -i "$golden"/v1/predicted/{BL,BL_L}_no_mirroring --dataset "$golden/v1/dataset.json" -o v1 --save-probabilities
}
part_postprocess() {
    needs pipeline/iso
    local from=$golden/pipeline/iso/predicted
    glio postprocess -i "$from" -o threshold --threshold 100 --labels brats
    glio postprocess -i "$from" -o largest --largest all --largest ET
    glio postprocess -i "$from" -o searched --search --ref "$golden/pipeline/iso/raw/labelsTs"
}
part_convert() {
    needs pipeline/iso
    needs v1
    for model in pipeline/iso/model v1/BL v1/BL_AA v1/BL_L_GN; do
        glio convert "$golden/$model" "$(basename "$(dirname "$golden/$model")")-$(basename "$model")"
    done
}

# Cheapest and most telling first.
parts=(
    phantom plan prep
    predict-phantom predict-2d predict-resenc predict-iso predict-aniso predict-v1 predict-recipe predict-uncertainty predict-single
    train-default train-2d train-resenc train-adamw train-dropout train-demo train-bl train-bl-l train-bl-gn train-bl-l-gn train-bl-aa
    train-aa-everywhere train-aa-residual resume-old
    crossval evaluate ensemble postprocess convert
)

# Small networks and trainings.
arch=configuration.architecture.arch_kwargs
short=(--epochs 3 --iterations 3 --val-iterations 1 --save-every 0.001s)
narrow=(--set "$arch.base_num_features=4" --patch 32,32,32)
small='"n_stages": 3, "features_per_stage": [4, 8, 8]'
tiny=(--preset tiny.json)
flat=(--preset flat.json -c 2d)
resenc=(--preset resenc.json)
write_presets() { # into a folder
    local folder=$1
    cat >"$folder/tiny.json" <<JSON
{"lr": 0.02, "configuration": {"patch_size": [16, 16, 16], "batch_size": 2, "architecture": {"arch_kwargs": {
    $small, "kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}}}}
JSON
    cat >"$folder/flat.json" <<JSON
{"lr": 0.02, "configuration": {"patch_size": [32, 24], "batch_size": 4, "architecture": {"arch_kwargs": {
    $small, "kernel_sizes": [[3, 3], [3, 3], [3, 3]], "strides": [[1, 1], [2, 2], [2, 2]],
    "n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}}}}
JSON
    cat >"$folder/resenc.json" <<JSON
{"lr": 0.02, "planner": "resenc-m", "configuration": {"patch_size": [16, 24, 16], "batch_size": 2, "architecture": {"arch_kwargs": {
    $small, "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_blocks_per_stage": [1, 2, 2], "n_conv_per_stage_decoder": [1, 1]}}}}
JSON
}

fail() {
    printf 'same-bytes: %s\n' "$1" >&2
    exit 2
}

# Runs the program at hand.
glio() { "$program" "$@" >>"$log" 2>&1; }

# Ends the part as skipped unless these golden data are there.
needs() {
    [[ -d $golden/$1 ]] && return
    echo "no golden data $1" >"$why"
    exit 77
}

predict() { # MODEL INPUT OUT [options]
    local model=$1 input=$2 out=$3
    shift 3
    glio predict -m "$model" -i "$input" -o "$out" --save-probabilities "$@"
}

# A folder with the images of one golden case only.
case_of() { # iso|aniso CASE
    local folder=$in/$1-$2
    if [[ ! -d $folder ]]; then
        mkdir "$folder"
        cp "$golden/pipeline/$1/raw/imagesTs/$2"_*.nii.gz "$folder"
    fi
    echo "$folder"
}

# Folders that hold the phantoms' fingerprint already: to measure it takes longer than everything else.
measured() { # FOLDER...
    local folder
    [[ -d $in/measured ]] || "$old" fingerprint "$in/phantoms" -o "$in/measured" >>"$log" 2>&1
    for folder in "$@"; do
        mkdir "$folder"
        cp "$in/measured/dataset_fingerprint.json" "$folder"
    done
}

# Starts a training, and kills the program as soon as it has written a checkpoint.
kill_training() { # PRE RESULTS [options]
    local pre=$1 results=$2 pid
    shift 2
    "$program" train "$in/phantoms" --preprocessed "$pre" -o "$results" "${short[@]}" "$@" >>"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && ! compgen -G "$results/*/fold_0/checkpoint_previous.safetensors" >/dev/null; do
        sleep 0.01
    done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    if compgen -G "$results/*/fold_0/checkpoint_final.safetensors" >/dev/null; then
        echo "the training ended before it could be killed" >>"$log"
        return 1
    fi
}

# Three epochs with a kill between, and their validation.
training() { # [options]
    write_presets .
    measured pre
    kill_training pre results "$@"
    glio train "$in/phantoms" --preprocessed pre -o results "${short[@]}" "$@" --resume
}

# A model that OLD has trained without a break, in $models/NAME.
trained() { # 2d|resenc
    [[ -d $models/$1 ]] && return
    local program=$old options=("${flat[@]}")
    [[ $1 == 2d ]] || options=("${resenc[@]}")
    cd "$models"
    write_presets .
    measured "pre-$1"
    glio train "$in/phantoms" --preprocessed "pre-$1" -o "results-$1" "${options[@]}" --epochs 4 --iterations 20 --val-iterations 1
    mv "results-$1"/*/ "$1"
    cd "$OLDPWD"
}

# A training that OLD has begun and that was killed, in $models/begun.
begun() {
    [[ -d $models/begun ]] && return
    local program=$old
    cd "$models"
    write_presets .
    measured begun-pre
    kill_training begun-pre begun "${tiny[@]}"
    cd "$OLDPWD"
}

# Does a part with one of the programs; its exit code is the part's.
do_part() { # PART old|new
    local log=$work/logs/$1-$2.log program=${!2} code
    mkdir "$work/run"
    # Not in a condition: there the shell would go on after a failed command.
    (
        set -e
        cd "$work/run"
        "part_${1//-/_}"
    )
    code=$?
    mv "$work/run" "$work/$2/$1"
    return "$code"
}

# Does a part with both programs and says in `result` what came of it.
compare_part() { # PART
    local side code difference
    for side in old new; do
        do_part "$1" "$side"
        code=$?
        if ((code == 77)); then
            result="skipped: $(<"$why")"
            return
        elif ((code != 0)); then
            result="DIFFERENT: ${side^^} failed: $(tail -n 3 "$work/logs/$1-$side.log" | tr '\n' ' ')"
            return
        fi
    done
    if difference=$(python3 "$here/same_bytes.py" "$work/old/$1" "$work/new/$1" 2>&1); then
        result=same
    else
        result="DIFFERENT: ${difference//$'\n'/$'\n'    }"
    fi
}

only=() allow_missing=false keep=
while (($#)); do
    case $1 in
    --only) only+=("${2:?--only needs the name of a part}") && shift 2 ;;
    --keep) keep=${2:?--keep needs a folder} && shift 2 ;;
    --allow-missing) allow_missing=true && shift ;;
    --list) printf '%s\n' "${parts[@]}" && exit ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    -*) fail "unknown option $1; see --help" ;;
    *) break ;;
    esac
done
(($# == 2)) || fail "expected two programs, OLD and NEW; see --help"
old=$(realpath -e "$1") && new=$(realpath -e "$2") || fail "no such program"

chosen=()
for part in "${parts[@]}"; do
    for prefix in "${only[@]:-}"; do
        [[ $part == "$prefix"* ]] && chosen+=("$part") && break
    done
done
((${#chosen[@]})) || fail "no part is named ${only[*]}; parts: ${parts[*]}"

if [[ -n $keep ]]; then
    mkdir "$keep" || fail "--keep wants a folder that does not exist yet"
    work=$(realpath "$keep")
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
in=$work/in models=$work/models why=$work/why log=$work/logs/inputs.log
mkdir -p "$work"/{in/cases,models,old,new,logs}
[[ -d $golden ]] && golden=$(realpath "$golden")
fixtures=$(realpath "$fixtures")

program=$old
glio phantom --cases 5 --size 40 --out "$in/phantoms" || fail "OLD makes no phantoms: $(tail -n 1 "$log")"
cp "$in"/phantoms/imagesTr/phantom_00[01]_*.nii.gz "$in/cases"

status=0
for part in "${chosen[@]}"; do
    started=$SECONDS
    compare_part "$part"
    printf '%-20s %s (%d s)\n' "$part" "$result" $((SECONDS - started))
    case $result in
    same) ;;
    skipped*) $allow_missing || status=1 ;;
    *) status=1 ;;
    esac
    [[ -n $keep ]] || rm -rf "$work"/{old,new}/"$part"
done
exit "$status"
