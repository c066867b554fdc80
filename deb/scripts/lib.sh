# What more than one of the package's scripts uses.

# The numbers of the running agents and helpers of this root: other roots, such as containers, are not ours.
running() {
  for each in /proc/[0-9]*; do
    tr '\0' ' ' <"$each/cmdline" 2>/dev/null | grep -qE '/opt/holdover/bin/holdover (agent|pr-helper)( |$)' || continue
    [ "$each/root/" -ef / ] && echo "${each#/proc/}"
  done
  return 0
}
