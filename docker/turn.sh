#!/bin/sh
# coturn for calls and nothing else: passwords are made from TURN_SECRET and expire, a session gets 128 kbit/s,
# and nobody is relayed into the network behind the server.
#   turn.sh [OPTION OF turnserver]...
# With TURN_CERT and TURN_KEY, files in PEM, it takes TLS on TURN_TLS_PORT (5349) as well, waits until both are there, and
# reads them anew when they change.
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
tls="--no-tls"
if [ -n "${TURN_CERT:-}" ]; then
    : "${TURN_KEY:?is not set, but TURN_CERT is}"
    until [ -s "$TURN_CERT" ] && [ -s "$TURN_KEY" ]; do
        echo "waiting for $TURN_CERT and $TURN_KEY"
        sleep 2
    done
    tls="--tls-listening-port=${TURN_TLS_PORT:-5349} --cert=$TURN_CERT --pkey=$TURN_KEY --no-tlsv1 --no-tlsv1_1"
    # exec below keeps the number of this process.
    server=$$
    (
        read_at=${TMPDIR:-/tmp}/turn-certificate
        touch "$read_at"
        while sleep "${TURN_CERT_CHECK_S:-3600}"; do
            if [ "$TURN_CERT" -nt "$read_at" ]; then
                touch "$read_at"
                kill -USR2 "$server" || exit 0
            fi
        done
    ) &
fi
# In a file, because every process may read another's command line.
conf=${TMPDIR:-/tmp}/turnserver.conf
(umask 077 && printf 'use-auth-secret\nstatic-auth-secret=%s\n' "$TURN_SECRET" >"$conf")
unset TURN_SECRET
# shellcheck disable=SC2086  # several options
exec turnserver -c "$conf" $tls \
    --listening-port=3478 --min-port=49160 --max-port=49200 \
    ${TURN_EXTERNAL_IP:+"--external-ip=$TURN_EXTERNAL_IP"} \
    ${TURN_ADDRESS:+"--listening-ip=$TURN_ADDRESS" "--relay-ip=$TURN_ADDRESS"} \
    --realm=kilocall --fingerprint --max-bps=16000 --user-quota=4 --total-quota=40 \
    --no-cli --no-dtls --no-tcp-relay --no-multicast-peers \
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
