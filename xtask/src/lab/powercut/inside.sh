# What a machine whose power is cut does: checks what an earlier one left on /data, says so, then BRANCHes until the end.
#
# Lines on its output are for the host: `listed TAG`, `file TAG NAME SHA256`, `verified TAG`, `damaged TAG WHY`, `checked`,
# `failed WHY` where it cannot begin to BRANCH, `loading`, `answered TAG`, `lied TAG WHY` and `refused TAG WHY`. A line is
# written whole, in one write.
# Its second argument is `faulty` where the disk has bad sectors.
root=/data/snapshots
mkdir -p /run/forkd
files() {
    for file in "$root/$1"/*; do
        # One line, so that a power cut leaves no half of it.
        echo "file $1 $(basename "$file") $(sha256sum <"$file" | cut -d' ' -f1)"
    done
}
# Images of layers are made anew on each boot: they are no part of what was answered.
forkd serve --snapshot-root "$root" --images-ahead never 2>/out/daemon.log &
until forkd images -q >/dev/null 2>&1; do
    kill -0 $! 2>/dev/null || { echo "damaged daemon $(tail -n 1 /out/daemon.log)"; exit 1; }
    sleep 0.1
done
for tag in $(forkd images -q); do
    echo "listed $tag"
    files "$tag"
    # Reads every byte of the tag and of all that it lies on, and compares digests.
    if why=$(forkd pack "$tag" -o - 2>&1 >/dev/null); then echo "verified $tag"; else echo "damaged $tag $why"; fi
done
for folder in "$root"/*; do
    [ -e "$folder" ] && [ ! -e "$folder/manifest.json" ] && echo "damaged $(basename "$folder") it has no manifest"
done
echo checked
[ "$1" = check ] && exit 0

fail() {
    echo "failed $1: $(tail -n 1 /tmp/why)"
    exit 1
}
if [ -z "$(forkd images -q)" ]; then forkd snapshot base --mem-mib 16 >/dev/null 2>/tmp/why || fail snapshot; fi
# From the newest, so that layers come to lie on layers that a power cut was near.
sandbox=$(forkd fork "$(forkd images -q | head -n 1)" 2>/tmp/why) || fail fork
# What an answer promised is read back from the disk, past the cache, which still holds what could not be written. A file
# system that has gone down for its errors can be asked for nothing.
read_back() {
    echo 3 >/proc/sys/vm/drop_caches
    why=$(forkd pack "$1" -o - 2>&1 >/dev/null) && return
    cat /data/alive >/dev/null 2>&1 && echo "lied $1 $why"
}
[ "$2" = faulty ] && echo alive >/data/alive && sync
echo loading
number=0
while true; do
    number=$((number + 1))
    tag=$1-$number
    echo "dirty $((1024 + number % 7 * 100)) 40 $number" | forkd console "$sandbox" -l --until "ok dirty" >/dev/null 2>&1
    # Full ones too: they are larger, and a diff may lie on them.
    mode=--diff
    [ $((number % 8)) = 0 ] && mode=--full
    if forkd branch "$sandbox" --tag "$tag" $mode >/dev/null 2>/tmp/why; then
        echo "answered $tag"
        files "$tag"
        [ "$2" = faulty ] && read_back "$tag"
    else
        echo "refused $tag $(tail -n 1 /tmp/why)"
        sleep 0.2
    fi
done
