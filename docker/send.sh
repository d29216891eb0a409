#!/bin/sh
# The sender service; its last argument, the camera, may be sample:NAME too.
#   send.sh [OPTION]... --camera sample:NAME|CLIP
set -eu
for camera in "$@"; do :; done
case $camera in
sample:*)
    # The samples are streams: made a clip here, with room around the face as a camera leaves it.
    clip=${TMPDIR:-/tmp}/${camera#sample:}.mp4
    kilocall decode "$camera" --out "$clip" --size 384 --threads 1
    # Of an option given twice the last counts.
    set -- "$@" --camera "$clip"
    ;;
esac
exec python -m kilocall.sender "$@"
