#!/usr/bin/env bash
# Runs a bundle on another processor: in an arm64 Debian that holds Python, numpy, onnxruntime and Pillow, and nothing else.
#
#     sudo tests/device/arm64.sh BUNDLE [IMAGE...]
#
# In it `run.py` does verify, predict and bench --check-only; the same predictions are made here, and each model's classes must be the
# same, its probabilities within the tolerance of its golden vectors. Prints PASS or FAIL and the time that it took.
# Exit codes: 0 passed, 1 failed, 2 wrong usage, 3 something that it needs is not here.
#
# The processor is a Cortex-A76 (a Raspberry Pi 5 has it; that of a Jetson Orin is its successor), emulated: times mean nothing.
# Where aarch64-linux-gnu-g++ is here and the bundle has its example in C++, the contract test of that runs there too.
#
# It needs root (chroot), and of Debian's packages debootstrap and qemu-user-static. Settings, from the environment:
#     ARM64_ROOT     where the root is made and kept, to be used again; else it is made in a temporary folder and removed
#     DEBIAN_MIRROR  where the packages come from; else what apt is told on this machine
#     DEBIAN_SUITE   which Debian; else this machine's
#     PYTHON         what runs the bundle here, and whose pip gets the wheels; else python3
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
began=$SECONDS

missing() { echo "cannot run: $1" >&2; exit 3; }
step() { echo "[$((SECONDS - began)) s] $1"; }

# the mirror that apt uses for a suite: both kinds of files, those of main alone
mirror_of() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed 's/\[[^]]*\]//' |
        awk -v suite="$1" '$1 == "deb" && $3 == suite && / main/ { print $2; exit }'
    awk -v suite="$1" -v RS= '/URIs:/ && (" " $0 " ") ~ ("[ :]" suite "[ \n]") && / main/ { print }' /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk '$1 == "URIs:" { print $2; exit }'
}

# Packages are unpacked, not configured: their scripts would start programs of the other processor by themselves, for which the kernel
# must know qemu (binfmt_misc), and in containers it mostly does not. Python runs without.
make_root() {
    local suite mirror version wheels platforms=() minor
    suite=${DEBIAN_SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-}")}
    mirror=${DEBIAN_MIRROR:-$(mirror_of "$suite" | head -n 1)}
    [ -n "$mirror" ] || missing "apt names no mirror for '$suite' here; set DEBIAN_MIRROR and DEBIAN_SUITE"
    step "debootstrap of $suite for arm64"
    mkdir -p "$root"
    debootstrap --arch=arm64 --variant=minbase --download-only --include=python3 "$suite" "$root" "$mirror" > "$work/debootstrap.log" ||
        missing "debootstrap could not get the packages: $(tail -n 1 "$work/debootstrap.log")"
    step "unpacking $(ls "$root"/var/cache/apt/archives/*.deb | wc -l) packages"
    for folder in bin sbin lib; do
        mkdir -p "$root/usr/$folder"
        [ -e "$root/$folder" ] || ln -s "usr/$folder" "$root/$folder"
    done
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --directory "$root"
    done
    version=$(basename "$(readlink -f "$root/usr/bin/python3")")
    minor=$(ls "$root"/var/cache/apt/archives/ | sed -n 's/^libc6_2\.\([0-9]*\)-.*/\1/p')
    for number in $(seq 17 "$minor"); do platforms+=(--platform "manylinux_2_${number}_aarch64"); done
    wheels="$root/opt/wheels"
    step "wheels for $version, glibc 2.$minor"
    "$python" -m pip install --quiet --target "$wheels" --no-deps --only-binary=:all: --implementation cp \
        --python-version "${version#python}" "${platforms[@]}" --platform manylinux2014_aarch64 numpy onnxruntime Pillow ||
        missing "pip could not get the wheels"
    rm "$root"/var/cache/apt/archives/*.deb
    write_processor
    touch "$root/.made"
}

# What the kernel of a board says of its processor, which is where ONNX Runtime looks for what it can compute with; the true
# /proc here describes another kind of processor.
write_processor() {
    local number
    mkdir -p "$root/proc" "$root/sys/devices/system/cpu"
    for number in 0 1; do
        printf 'processor\t: %s\nBogoMIPS\t: 50.00\nFeatures\t: %s\n' "$number" \
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
        printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
    done > "$root/proc/cpuinfo"
    echo 0-1 | tee "$root/sys/devices/system/cpu/possible" > "$root/sys/devices/system/cpu/present"
}

# a command in the root, under the emulator
there() {
    env -i HOME=/tmp LC_ALL=C.UTF-8 PYTHONPATH=/opt/wheels PYTHONDONTWRITEBYTECODE=1 QEMU_CPU="$processor" \
        "$(command -v chroot)" "$root" /usr/bin/qemu-aarch64-static "$@"
}

processor=cortex-a76
[ $# -ge 1 ] && [ -f "$1/manifest.json" ] || { echo "usage: $0 BUNDLE [IMAGE...]; BUNDLE holds manifest.json" >&2; exit 2; }
bundle=$(cd "$1" && pwd)
shift
[ "$(id -u)" = 0 ] || missing "chroot needs root"
for program in debootstrap qemu-aarch64-static chroot; do
    command -v "$program" > /dev/null || missing "$program is not here (apt install debootstrap qemu-user-static)"
done
"$python" -c 'import numpy, onnxruntime, PIL' 2> /dev/null || missing "$python has not numpy, onnxruntime and Pillow; set PYTHON"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=${ARM64_ROOT:-$work/root}
if [ -f "$root/.made" ]; then step "the root $root is here already"; else make_root; fi
cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/"

rm -rf "$root/bundle" "$root/images"
cp -r "$bundle" "$root/bundle"
mkdir "$root/images"
if [ $# -gt 0 ]; then cp "$@" "$root/images/"; else find "$bundle/golden" -type f ! -name '*.npy' -exec cp {} "$root/images/" \;; fi
there /usr/bin/python3 -c 'import platform, numpy, onnxruntime, PIL
print("there:", platform.machine(), "Python", platform.python_version(), "numpy", numpy.__version__, "onnxruntime",
      onnxruntime.__version__, "Pillow", PIL.__version__)'

on_cpu=(--runtime onnxruntime --device cpu)
status=0
step "verify"
there /usr/bin/python3 /bundle/run.py verify "${on_cpu[@]}" > "$work/verify" || status=1
grep -v '^ok *hash ' "$work/verify" || true
for precision in $("$python" -c 'import json, sys
print(*(model["artifact"]["precision"] for model in json.load(open(sys.argv[1]))["models"]))' "$bundle/manifest.json"); do
    step "$precision: predict, bench --check-only"
    there /usr/bin/python3 /bundle/run.py predict /images --json --precision "$precision" "${on_cpu[@]}" > "$work/there.json" 2> "$work/log" &&
        there /usr/bin/python3 /bundle/run.py bench --check-only --precision "$precision" "${on_cpu[@]}" 2> "$work/log" ||
        { status=1; cat "$work/log" >&2; continue; }
    PYTHONDONTWRITEBYTECODE=1 "$python" "$root/bundle/run.py" predict "$root/images" --json --precision "$precision" "${on_cpu[@]}" > "$work/here.json" 2> /dev/null
    "$python" "$here/compare_predictions.py" "$bundle/manifest.json" "$precision" "$work/here.json" "$work/there.json" || status=1
done
if [ -d "$bundle/cpp" ] && command -v aarch64-linux-gnu-g++ > /dev/null; then
    step "the contract test in C++"
    # optimised as far as it goes, and with fused products, which this processor has
    aarch64-linux-gnu-g++ -std=c++17 -O3 -ffp-contract=fast -static -o "$root/contract_test" "$bundle/cpp/contract_test.cpp"
    there /contract_test golden /bundle || status=1
fi
[ $status = 0 ] && verdict=PASS || verdict=FAIL
echo "$verdict after $((SECONDS - began)) s"
exit $status
