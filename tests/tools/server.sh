#!/usr/bin/env bash
# Throw-away PostgreSQL servers, several at once, each with a name.
# Usage:
#   server.sh start MAJOR NAME [--preload|--no-preload] [--durable] [parameter=value …]
#       a fresh server; prints the path of a file of environment variables to source
#   server.sh standby MAJOR NAME OF [parameter=value …]   a hot standby of the server OF
#   server.sh upgrade MAJOR NAME OF [parameter=value …]   what the server OF has, by pg_upgrade; OF is stopped
#   server.sh restart NAME [parameter=value …]            an ordinary restart
#   server.sh crash NAME        SIGKILL to every process, then start again (recovery)
#   server.sh promote NAME      ends recovery of a standby
#   server.sh env NAME          prints that file
#   server.sh log NAME          prints the path of the server's log
#   server.sh stop NAME         stops it and removes all of it; no error if there is none
#   server.sh stop-all          stops those of this run ($TENANCY_RUN)
#
# --preload puts tenancy into shared_preload_libraries. --durable leaves fsync on.
# The superuser is postgres, anybody on this machine may connect, so no real data belongs there.
# shellcheck source=tests/tools/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A backtrace in the DETAIL of PostgreSQL's own errors helps nobody who reads a test.
unset RUST_BACKTRACE

load() {
  [ -r "$RUN/$1.env" ] || die "no server $1 (see: server.sh start)"
  # shellcheck disable=SC1090
  . "$RUN/$1.env"
  DIR=$PGHOST BIN=$TENANCY_PG_BIN
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# configure DIR [parameter=value …]: later lines win over earlier ones.
configure() {
  local dir=$1 setting value
  shift
  for setting in "$@"; do
    case $setting in *=*) ;; *) die "not parameter=value: $setting" ;; esac
    value=${setting#*=}
    printf "%s = '%s'\n" "${setting%%=*}" "${value//\'/\'\'}"
  done | as_server tee -a "$dir/data/postgresql.conf" >/dev/null
}

pg_start() { # DIR BIN
  as_server "$2/pg_ctl" -D "$1/data" -l "$1/server.log" -s -w -t 120 start </dev/null >/dev/null 2>"$1/pg_ctl.err" || {
    cat "$1/pg_ctl.err" >&2
    tail -n 40 "$1/server.log" >&2 || true
    return 1
  }
}
pg_stop() { # DIR BIN
  [ ! -e "$1/data/postmaster.pid" ] ||
    as_server "$2/pg_ctl" -D "$1/data" -s -w -m "${3:-fast}" stop </dev/null >/dev/null 2>&1 || true
}

make_dir() { # NAME: a directory for data, socket and log, readable as little as needed
  # Short, because the path of a socket has at most 107 characters.
  DIR=$(mktemp -d "/tmp/tenancy-$1.XXXXXX")
  # Clients of any user reach the socket; initdb closes the data directory itself.
  chmod 755 "$DIR"
  : >"$DIR/pg_ctl.err"
  if [ "$IS_ROOT" = yes ]; then chown -R postgres "$DIR"; fi
}

write_env() { # MAJOR NAME DIR BIN
  cat >"$RUN/$2.env" <<EOF
export PGHOST=$3 PGPORT=$5 PGUSER=postgres PGDATABASE=postgres
export TENANCY_PG_MAJOR=$1 TENANCY_PG_BIN=$4 TENANCY_SERVER=$2
EOF
}

# launch MAJOR NAME [parameter=value …]: with a port that is free; another process may take it first.
launch() {
  local major=$1 name=$2 port try
  shift 2
  for try in 1 2 3; do
    port=$(free_port)
    configure "$DIR" "listen_addresses=127.0.0.1" "unix_socket_directories=$DIR" "port=$port" "$@"
    if pg_start "$DIR" "$BIN"; then
      write_env "$major" "$name" "$DIR" "$BIN" "$port"
      echo "$RUN/$name.env"
      return
    fi
    grep -q 'Address already in use' "$DIR/server.log" || break
    say "port $port was taken meanwhile (try $try)"
  done
  cp "$DIR/server.log" "$CACHE/log/server-$name.log" 2>/dev/null || true
  rm -rf "$DIR"
  die "PostgreSQL $major does not start"
}

start() {
  local major=$1 name=$2 preload='' durable=no settings=()
  shift 2
  for arg in "$@"; do
    case $arg in
      --preload) preload=tenancy ;;
      --no-preload) preload='' ;;
      --durable) durable=yes ;;
      *) settings+=("$arg") ;;
    esac
  done
  case $name in *[!A-Za-z0-9_-]* | '') die "a name has letters, digits, - and _: $name" ;; esac
  stop "$name"
  init "$major" "$name"
  [ "$durable" = yes ] || settings=(fsync=off "${settings[@]}")
  launch "$major" "$name" "shared_preload_libraries=$preload" "${DEFAULTS[@]}" "${settings[@]}"
}

DEFAULTS=(log_min_messages=warning max_connections=200 shared_buffers=256MB max_prepared_transactions=20 max_wal_size=2GB
  "log_line_prefix=%m [%p] %q%u@%d/%a ")

# init MAJOR NAME: an empty cluster in a directory of its own
init() {
  local options=()
  BIN=$(pg_bin "$1")
  [ -x "$BIN/postgres" ] || die "PostgreSQL $1 is missing: tests/tools/setup.sh $1"
  # As before 18, so that pg_upgrade takes both.
  [ "$1" -lt 18 ] || options+=(--no-data-checksums)
  make_dir "$2"
  as_server "$BIN/initdb" -D "$DIR/data" -U postgres --auth=trust --encoding=UTF8 --locale=C "${options[@]}" \
    --no-sync >"$CACHE/log/initdb-$2.log" 2>&1 ||
    { cat "$CACHE/log/initdb-$2.log" >&2; die "initdb failed"; }
}

upgrade() {
  local major=$1 name=$2 of=$3 from
  shift 3
  stop "$name"
  load "$of"
  pg_stop "$DIR" "$BIN"
  from=("$BIN" "$DIR/data")
  init "$major" "$name"
  configure "$DIR" shared_preload_libraries=tenancy fsync=off "${DEFAULTS[@]}" "$@"
  # It writes to where it runs.
  # shellcheck disable=SC2016
  as_server sh -c 'cd "$1" && shift && exec "$@"' sh "$DIR" "$BIN/pg_upgrade" -b "${from[0]}" -d "${from[1]}" -B "$BIN" -D "$DIR/data" -U postgres -s "$DIR" \
    >"$CACHE/log/pg_upgrade-$name.log" 2>&1 ||
    { cat "$CACHE/log/pg_upgrade-$name.log" >&2; as_server find "$DIR/data/pg_upgrade_output.d" -name '*.log' -exec tail -n 30 {} + >&2; die "pg_upgrade failed"; }
  launch "$major" "$name"
}

standby() {
  local major=$1 name=$2 of=$3
  shift 3
  stop "$name"
  load "$of"
  make_dir "$name"
  as_server "$BIN/pg_basebackup" -h "$PGHOST" -p "$PGPORT" -U postgres -D "$DIR/data" -R -X stream -c fast \
    2>"$CACHE/log/basebackup-$name.log" ||
    { cat "$CACHE/log/basebackup-$name.log" >&2; die "pg_basebackup failed"; }
  launch "$major" "$name" "$@"
}

restart() {
  local name=$1
  shift
  load "$name"
  configure "$DIR" "$@"
  pg_stop "$DIR" "$BIN"
  pg_start "$DIR" "$BIN" || die "$name does not start again"
}

# A crash as the operating system's out-of-memory killer or a power cut makes it.
crash() {
  load "$1"
  local postmaster
  postmaster=$(head -n 1 "$DIR/data/postmaster.pid")
  local children # pgrep is not on every machine; a process that ends meanwhile is no error
  children=$({ grep -l "^PPid:[[:space:]]*$postmaster\$" /proc/[0-9]*/status 2>/dev/null || true; } | cut -d / -f 3)
  # shellcheck disable=SC2086
  kill -KILL "$postmaster" $children 2>/dev/null || true
  while kill -0 "$postmaster" 2>/dev/null; do sleep 0.1; done
  pg_start "$DIR" "$BIN" || die "$1 does not recover"
}

stop() {
  [ -r "$RUN/$1.env" ] || return 0
  (
    load "$1"
    [ ! -d "$DIR/data" ] || pg_stop "$DIR" "$BIN" "${2:-fast}"
    cp "$DIR/server.log" "$CACHE/log/server-$1.log" 2>/dev/null || true
    case $DIR in /tmp/tenancy-*) rm -rf "$DIR" ;; esac
  )
  rm -f "$RUN/$1.env"
}

[ $# -ge 2 ] || [ "$*" = stop-all ] || { sed -n '2,/^# The superuser/{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
command=$1
shift
case $command in
  start | standby | upgrade | restart | crash | stop) "$command" "$@" ;;
  stop-all) for file in "$RUN"/*.env; do [ ! -e "$file" ] || stop "$(basename "$file" .env)"; done ;;
  promote) load "$1" && as_server "$BIN/pg_ctl" -D "$DIR/data" -s -w promote ;;
  env) load "$1" && cat "$RUN/$1.env" ;;
  log) load "$1" && echo "$DIR/server.log" ;;
  *) die "unknown command: $command" ;;
esac
