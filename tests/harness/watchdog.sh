# Kills all that a federation started, when the process that started it is gone: its end of our input is closed then.
# The directory is $1. `closed` is written before `pids` is read, and launch.sh does it the other way round, so that
# nobody slips through between them.
cat >/dev/null
: >"$1/closed"
nth() {
  shift 19
  echo "$1"
}
[ -e "$1/pids" ] || exit 0
while read -r pid start _; do
  IFS= read -r stat <"/proc/$pid/stat" || continue
  # shellcheck disable=SC2086 # the fields of stat after the command's name
  [ "$(nth ${stat##*) })" = "$start" ] && kill -s KILL -- "-$pid"
done <"$1/pids" 2>/dev/null
exit 0
