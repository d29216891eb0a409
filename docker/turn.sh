#!/bin/sh
# coturn for calls and nothing else: passwords are made from TURN_SECRET and expire, a session gets 128 kbit/s,
# and nobody is relayed into the network behind the server.
#   turn.sh [OPTION OF turnserver]...
set -eu
: "${TURN_SECRET:?is not set: make one with openssl rand -hex 32}"
case $TURN_SECRET in
*[!0-9A-Za-z]*)
    echo "TURN_SECRET: only letters and digits are allowed" >&2
    exit 2
    ;;
esac
if [ ${#TURN_SECRET} -lt 32 ]; then
    echo "TURN_SECRET has ${#TURN_SECRET} characters; at least 32 are needed" >&2
    exit 2
fi
# In a file, because every process may read another's command line.
conf=${TMPDIR:-/tmp}/turnserver.conf
(umask 077 && printf 'use-auth-secret\nstatic-auth-secret=%s\n' "$TURN_SECRET" >"$conf")
unset TURN_SECRET
exec turnserver -c "$conf" \
    --listening-port=3478 --min-port=49160 --max-port=49200 \
    ${TURN_EXTERNAL_IP:+"--external-ip=$TURN_EXTERNAL_IP"} \
    --realm=kilocall --fingerprint --max-bps=16000 --user-quota=4 --total-quota=40 \
    --no-cli --no-tls --no-dtls --no-tcp-relay --no-multicast-peers \
    --denied-peer-ip=0.0.0.0-0.255.255.255 \
    --denied-peer-ip=10.0.0.0-10.255.255.255 \
    --denied-peer-ip=100.64.0.0-100.127.255.255 \
    --denied-peer-ip=127.0.0.0-127.255.255.255 \
    --denied-peer-ip=169.254.0.0-169.254.255.255 \
    --denied-peer-ip=172.16.0.0-172.31.255.255 \
    --denied-peer-ip=192.168.0.0-192.168.255.255 \
    --denied-peer-ip=::1 \
    --denied-peer-ip=::ffff:0:0-::ffff:ffff:ffff \
    --denied-peer-ip=64:ff9b::-64:ff9b::ffff:ffff \
    --denied-peer-ip=fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
    --denied-peer-ip=fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
    --log-file=stdout --pidfile="${TMPDIR:-/tmp}/turnserver.pid" "$@"
