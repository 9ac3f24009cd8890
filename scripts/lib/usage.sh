# shellcheck shell=bash
# To be sourced. Prints the comment at a script's head as its help.
#
#   usage         prints the help
#   wrong_usage   prints the help to standard error and ends the script

usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]%/lib/usage.sh}/${0##*/}"; }
wrong_usage() { usage >&2; exit 2; }
