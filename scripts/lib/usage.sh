# shellcheck shell=bash
# To be sourced: what a script says of itself, which is the comment at its head.
#
#   usage         prints it
#   wrong_usage   prints it to standard error, and ends the script

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]%/lib/usage.sh}/${0##*/}"; }
wrong_usage() { usage >&2; exit 2; }
