#!/usr/bin/env bash
# Fetch what cannot be shipped (prompts, training images, copy descriptors) from its authors' addresses.
#
#   bash tools/download_data.sh              list what there is, with licence and state; changes nothing
#   bash tools/download_data.sh NAME...      fetch these; all fetches everything
#
#   --manifest FILE   another table, such as one of a mirror (default: tools/download_manifest.tsv)
#   --dest FOLDER     put the files under FOLDER instead of this clone
#
# A download that was cut off goes on where it was. Each file is checked: against the table's checksum or, where
# none is published, against the SHA-256 of the first download, which is kept in examples/downloads.sha256.
# DOWNLOAD_TRIES (5) and DOWNLOAD_WAIT (5 seconds between tries) are for bad lines; PYTHON names the interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
manifest=$root/tools/download_manifest.tsv
dest=$root
names=()

# Entries are fetched in subshells, so this ends one entry, and the others are still tried.
fail() {
    echo "error: $*" >&2
    exit 2
}

parse_arguments() {
    while (($#)); do
        case $1 in
            -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}" && exit ;;
            --manifest) manifest=${2:-} ;;
            --dest) dest=${2:-} ;;
            -*) fail "unknown option $1; --help lists them" ;;
            *) names+=("$1") ;;
        esac
        if [[ $1 == -* ]]; then
            [[ -n ${2:-} ]] || fail "$1 needs a value"
            shift
        fi
        shift
    done
    record=$dest/examples/downloads.sha256
    [[ -f $manifest ]] || fail "there is no table $manifest; give one with --manifest FILE"
}

refuse_unknown_names() {
    local known wanted
    known=$(awk -F '\t' '!/^#/ { printf "%s ", $1 }' "$manifest")
    for wanted in "${names[@]}"; do
        [[ " $known all " == *" $wanted "* ]] || fail "$manifest has no $wanted; it has: ${known% }"
    done
}

require_tools() {
    local tool
    for tool in curl "$python"; do
        command -v "$tool" >/dev/null || fail "$tool is not installed; install it, or fetch by hand what the list shows"
    done
}

digest() { # file, known checksum or nothing: its length tells MD5 from SHA-256
    "$python" - "$1" "${#2}" <<'PYTHON'
import hashlib, sys

digest = hashlib.md5() if sys.argv[2] == "32" else hashlib.sha256()
with open(sys.argv[1], "rb") as file:
    while chunk := file.read(1 << 20):
        digest.update(chunk)
print(digest.hexdigest())
PYTHON
}

# The checksum that the entry's file must have: the table's, else that of the first download, else nothing.
known_checksum() {
    if [[ $checksum != - ]]; then
        echo "$checksum"
    elif [[ -f $record ]]; then
        awk -v file="$file" 'substr($0, 67) == file { print $1 }' "$record"
    fi
}

list_entry() {
    local state=missing known
    if [[ $target == */ && -d $dest/$target ]]; then
        state=present
    elif [[ -f $dest/$file ]]; then
        state=present
        known=$(known_checksum)
        [[ -z $known || $(digest "$dest/$file" "$known") == "$known" ]] || state="present, but not the known file"
    elif [[ -f $dest/$file.part ]]; then
        state="cut off at $(wc -c <"$dest/$file.part" | tr -d ' ') bytes"
    fi
    printf '%s: %s\n    %s; licence: %s\n    %s: %s\n    from %s\n' \
        "$name" "$what" "$size" "$licence" "$target" "$state" "$page"
}

# Adds to PART what it still lacks of the file. Not by curl's own retries, which begin again each time.
download() { # part
    local part=$1 try code answer quiet=(--silent)
    [[ ! -t 2 ]] || quiet+=(--progress-meter --progress-bar)
    for ((try = 1; try <= ${DOWNLOAD_TRIES:-5}; try++)); do
        ((try == 1)) || sleep "${DOWNLOAD_WAIT:-5}"
        code=0
        answer=$(curl "${quiet[@]}" --fail --location --proto =http,https --connect-timeout 30 \
            --speed-limit 1 --speed-time 60 --continue-at - --output "$part" \
            --write-out '%{http_code} %{errormsg}' "$url") || code=$?
        case $code:$answer in
            # No ranges, or nothing after our last byte, which may mean that the file is another now: from the start.
            33:* | *:416*) rm -f "$part" ;;
            0:*) return ;;
            23:*) fail "$name: cannot write $part (disk full?); make room and run this again, it goes on from there" ;;
            22:408* | 22:429* | 22:5*) ;;
            1:* | 3:* | 22:*) break ;;
        esac
    done
    fail "$name: cannot fetch $url (${answer#000 }); if it stays so, take it from $page and put it at ${part%.part}"
}

# Google Drive over its quota, portals and the like answer with a page and the status of success.
refuse_web_page() { # part
    if head -c 200 "$1" | tr -d '\0' | grep -qiE '^[[:space:]]*<(!doctype html|html)'; then
        rm -f "$1"
        fail "$name: $url gives a web page, not the file; save the file from $page as ${1%.part} and run this again"
    fi
}

# Ends the entry unless the file is the known one; makes it the known one where there is none.
verify() { # file
    local found known
    known=$(known_checksum)
    found=$(digest "$1" "$known")
    if [[ -z $known ]]; then
        { [[ ! -f $record ]] || cat "$record"; echo "$found  $file"; } >"$record.new"
        mv "$record.new" "$record"
        echo "$name: no checksum is published; this one's SHA-256 is kept in $record, later files must have it"
    elif [[ $found != "$known" ]]; then
        [[ $1 != *.part ]] || rm -f "$1"
        fail "$name: ${1%.part} should have checksum $known, not $found; $(remedy "$1")"
    fi
}

remedy() { # file
    if [[ $checksum == - ]]; then
        echo "it differs from the first download: if you trust it, remove the line in $record and run this again"
    elif [[ $1 == *.part ]]; then
        echo "the download was removed: run this again, or ask its authors, $page"
    else
        echo "remove it and run this again"
    fi
}

fetch_file() { # file
    mkdir -p "$(dirname "$1")" "$(dirname "$record")"
    if [[ -f $1 ]]; then
        verify "$1"
        return
    fi
    echo "$name: fetching $size from $url (licence: $licence)"
    download "$1.part"
    refuse_web_page "$1.part"
    verify "$1.part"
    mv "$1.part" "$1"
}

# The folder appears whole or not at all, and in the layout that --dataset takes.
unpack() { # archive, folder
    local images reason
    staging=$2.unpacking # not local: the trap reads it when the subshell ends
    trap 'rm -rf "$staging"' EXIT
    rm -rf "$staging"
    mkdir "$staging"
    reason=$(unpack_any "$1" "$staging" 2>&1) ||
        fail "$name: cannot unpack $1 (${reason##*$'\n'}); make room, or remove it, and run this again"
    images=$(find "$staging" -type d -name gt_images ! -path '*/__MACOSX/*' -print -quit)
    [[ -n $images ]] || fail "$name: $1 has no folder gt_images, so it is not this data set; remove it"
    name_rows "${images%/gt_images}" "$(basename "$2")"
    mv "${images%/gt_images}" "$2"
    rm "$1"
}

unpack_any() { # archive, folder
    if [[ $(head -c 2 "$1") == PK ]]; then
        "$python" -m zipfile -e "$1" "$2"
    else
        tar -xf "$1" -C "$2"
    fi
}

# Wen et al. call the rows NAME.jsonl; --dataset reads NAME_repeated.jsonl, the name that Chen et al. use.
name_rows() { # folder, name
    [[ ! -f $1/$2_repeated.jsonl && ! -f $1/$2_repeated_withss.jsonl ]] || return 0
    [[ -f $1/$2.jsonl ]] || fail "$name: the archive has no $2.jsonl beside gt_images, so it is not this data set"
    cp "$1/$2.jsonl" "$1/$2_repeated.jsonl"
}

fetch_entry() {
    if [[ $target != */ ]]; then
        fetch_file "$dest/$file"
    elif [[ ! -d $dest/$target ]]; then
        fetch_file "$dest/$file"
        unpack "$dest/$file" "$dest/${target%/}"
    fi
    echo "$name: $dest/$target is there"
}

parse_arguments "$@"
if ((${#names[@]})); then
    refuse_unknown_names
    require_tools
fi
status=0
line=0
while IFS=$'\t' read -r -u 3 name url target checksum size licence page what more || [[ -n $name ]]; do
    ((line += 1))
    [[ $name != \#* ]] || continue
    [[ -n $what && -z $more ]] || fail "$manifest, line $line: expected 8 fields with tabs between, - for none"
    file=${target/%\//.archive} # an archive lies beside the folder that it is unpacked to
    if ((${#names[@]} == 0)); then
        list_entry
    elif [[ " ${names[*]} " == *" $name "* || " ${names[*]} " == *" all "* ]]; then
        # Not (fetch_entry) || status=2: that would switch off set -e inside.
        set +e
        (set -e; fetch_entry)
        code=$?
        set -e
        ((code == 0)) || status=2
    fi
done 3<"$manifest"
((${#names[@]})) || echo "Fetch with: bash tools/download_data.sh NAME... (all for everything)"
exit "$status"
