# Becomes the program "$@", after its process id and start time stand in the file that the watchdog reads ($0 is the
# directory). The start time tells this process from a later one with the same id.
nth() {
  shift 19
  echo "$1"
}
IFS= read -r stat </proc/$$/stat
# shellcheck disable=SC2086 # the fields of stat after the command's name
echo "$$ $(nth ${stat##*) }) $1" >>"$0/pids"
[ -e "$0/closed" ] && exit 1
exec "$@"
