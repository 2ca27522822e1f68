#!/usr/bin/env bash
# Sends 10,000 lines from Apache JMeter 2.13 (Debian 12) to a line-echo server:
#   run.sh PORT [HOST]          (HOST defaults to 127.0.0.1)
# Exit status: 0 exactly 10,000 samples and none failed; 1 anything else went
# wrong; 2 wrong arguments; 3 a Debian package is missing.
# JMETER_TIMEOUT (seconds, default 120) limits the whole run.
set -u

want=10000
limit=${JMETER_TIMEOUT:-120}
home=/usr/share/jmeter
xstream=/usr/share/java/xstream.jar

if [ $# -lt 1 ] || [ $# -gt 2 ] || [[ ! $1 =~ ^[0-9]{1,5}$ ]]; then
    echo "usage: ${0##*/} PORT [HOST]" >&2
    exit 2
fi
port=$1
host=${2:-127.0.0.1}

missing=()
[ -r "$home/bin/ApacheJMeter.jar" ] || missing+=(jmeter)
[ -r "$home/lib/ext/ApacheJMeter_tcp.jar" ] || missing+=(jmeter-tcp)
[ -r "$xstream" ] || missing+=(libxstream-java)
command -v javac >/dev/null 2>&1 || missing+=(openjdk-17-jdk-headless)
if [ ${#missing[@]} -gt 0 ]; then
    echo "jmeter: missing Debian package(s): ${missing[*]} (apt-get install ${missing[*]})" >&2
    exit 3
fi

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1

# The java that belongs to this javac: an older one first in PATH could not
# load the compiled shim.
javac=$(readlink -f -- "$(command -v javac)")
java=${javac%/*}/java
[ -x "$java" ] || java=java

tmp=$(mktemp -d) || exit 1
pid=
cleanup() {
    trap - EXIT
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    fi
    rm -rf -- "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$tmp/shim" "$tmp/home" || exit 1
if ! "$javac" -J-XX:-UsePerfData -cp "$xstream" -d "$tmp/shim" \
    "$here/shim/com/thoughtworks/xstream/security/NoTypePermission.java" >"$tmp/javac.log" 2>&1; then
    echo "jmeter: the shim does not compile:" >&2
    cat "$tmp/javac.log" >&2
    exit 1
fi

# - The shim comes first, see NoTypePermission.java. ApacheJMeter.jar names the
#   other jars in its manifest.
# - user.home, java.io.tmpdir and the working directory are the temporary
#   directory, so nothing is written anywhere else.
# - jmeterengine.nongui.port=0: no UDP control port, so runs can go in parallel.
# - autoflush: if the run is cut off the samples so far are still counted.
# - In the background, because bash runs a trap only after a foreground command.
cd "$tmp" || exit 1
timeout -k 5 "$limit" "$java" -Xmx256m -XX:-UsePerfData \
    -Djava.awt.headless=true -Dfile.encoding=UTF-8 \
    -Duser.home="$tmp/home" -Djava.util.prefs.userRoot="$tmp/home" -Djava.io.tmpdir="$tmp" \
    -Djmeter.home="$home" \
    -cp "$tmp/shim:$xstream:$home/bin/ApacheJMeter.jar" \
    org.apache.jmeter.NewDriver -n \
    -t "$here/line.jmx" -l "$tmp/out.jtl" -j "$tmp/jmeter.log" \
    -Jhost="$host" -Jport="$port" \
    -Jtcp.charset=UTF-8 \
    -Jjmeterengine.nongui.port=0 \
    -Jsampleresult.timestamp.start=true \
    -Jjmeter.save.saveservice.output_format=csv \
    -Jjmeter.save.saveservice.print_field_names=true \
    -Jjmeter.save.saveservice.timestamp_format=ms \
    -Jjmeter.save.saveservice.default_delimiter=, \
    -Jjmeter.save.saveservice.assertion_results_failure_message=true \
    -Jjmeter.save.saveservice.autoflush=true \
    >"$tmp/out.log" 2>&1 </dev/null &
pid=$!
wait "$pid"
status=$?
pid=

# JMeter ends with 0 even if samples failed, so the results file decides.
# A quoted field may hold commas and line ends (assertion messages do): lines
# are joined until their quotes are even, and columns are found by name.
touch "$tmp/out.jtl"
LC_ALL=C awk -v want="$want" '
function split_csv(s, out,    n, i, c, q, f) {
    if (index(s, "\"") == 0) return split(s, out, ",")
    n = 0; q = 0; f = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        if (c == "\"") {
            if (q && substr(s, i + 1, 1) == "\"") { f = f c; i++ } else q = !q
        } else if (c == "," && !q) { out[++n] = f; f = "" }
        else f = f c
    }
    out[++n] = f
    return n
}
function percentile(p,    seen, ms) {
    for (ms = 0; ms <= max; ms++) { seen += hist[ms]; if (seen >= p * samples) return ms }
    return max
}
{
    rec = joining ? rec "\n" $0 : $0
    quotes = rec
    joining = gsub(/"/, "", quotes) % 2
    if (joining) next
    n = split_csv(rec, f)
    if (!header) { for (i = 1; i <= n; i++) col[f[i]] = i; header = 1; next }
    samples++
    start = f[col["timeStamp"]] + 0; ms = f[col["elapsed"]] + 0
    if (samples == 1 || start < first) first = start
    if (start + ms > last) last = start + ms
    hist[ms]++; if (ms > max) max = ms
    if (f[col["success"]] != "true") {
        errors++
        if (errors <= 5) {
            # An assertion calls a failed connection "Response was null"; the
            # reason is in the response message.
            msg = f[col["threadName"]] ": code " f[col["responseCode"]] " " \
                f[col["responseMessage"]] ": " f[col["failureMessage"]]
            gsub(/[\r\n]+/, " | ", msg)
            if (length(msg) > 400) {
                msg = substr(msg, 1, 400)
                sub(/[\300-\377][\200-\277]*$/, "", msg) # no half UTF-8 character
                msg = msg "..."
            }
            shown = shown "  " msg "\n"
        }
    }
}
END {
    s = (last - first) / 1000
    printf "jmeter: %d samples, %d errors, %.1f s, %.0f/s, p50 %d ms, p99 %d ms, max %d ms\n", \
        samples, errors, s, (s > 0 ? samples / s : 0), percentile(0.5), percentile(0.99), max
    if (errors > 0) printf "first failures:\n%s", shown
    if (joining) print "the results file ends in the middle of a record"
    exit (samples != want || joining) ? 2 : errors > 0
}' "$tmp/out.jtl"
counted=$?

if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    echo "jmeter: stopped after $limit s (JMETER_TIMEOUT)" >&2
elif [ "$status" -ne 0 ]; then
    echo "jmeter: the program ended with status $status" >&2
fi
# With all samples there the failures above say enough; else the log has to.
if [ "$status" -ne 0 ] || [ "$counted" -gt 1 ]; then
    { echo "end of its output and log:"; tail -n 15 out.log; tail -n 15 jmeter.log; } >&2 2>/dev/null
    exit 1
fi
exit "$counted"
