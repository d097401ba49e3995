package guest

import (
	"encoding/hex"
	"strings"
)

// Script is the Linux Run Command script that fetches cvmguard-guest, checks that
// it is the one with the given SHA-256 (64 lower-case hex digits; anything else
// gives a script that runs nothing), and has it collect.
//
// It expects named parameters as environment variables: NONCE, TOOL_URL and
// OUT_URL (protected), VM_ID and CAUSE (plain; CAUSE is only there to be read
// back through ARM). It needs sh, mktemp, sha256sum and curl or wget, keeps URLs
// out of process listings, and leaves nothing behind.
func Script(toolSHA256 string) string {
	if raw, err := hex.DecodeString(toolSHA256); err != nil || len(raw) != 32 || strings.ToLower(toolSHA256) != toolSHA256 {
		toolSHA256 = "no-digest-was-given"
	}
	return strings.Replace(scriptText, "@SHA256@", toolSHA256, 1)
}

const scriptText = `#!/bin/sh
# cvmguard: fetch the evidence collector, check it, run it once, remove it.
set -eu
umask 077
want=@SHA256@

die() {
	echo "cvmguard: $1" >&2
	exit "${2:-1}"
}
for name in NONCE TOOL_URL OUT_URL VM_ID; do
	eval "value=\${$name:-}"
	[ -n "$value" ] || die "parameter $name is not set" 2
done
value=

# A place from which a file may be run: /tmp is often mounted noexec.
tool=
trap '[ -z "$tool" ] || rm -f "$tool"' EXIT
trap 'exit 1' HUP INT TERM
for dir in "${TMPDIR:-/tmp}" /var/tmp /var/lib /root; do
	tool=$(mktemp "$dir/cvmguard-guest.XXXXXX" 2>/dev/null) || { tool=; continue; }
	printf '#!/bin/sh\nexit 0\n' >"$tool"
	chmod 700 "$tool"
	if "$tool" 2>/dev/null; then break; fi
	rm -f "$tool"
	tool=
done
[ -n "$tool" ] || die "no folder to run the collector from (tried /tmp, /var/tmp, /var/lib, /root)"

# The URL goes in by standard input, so that no process listing shows it.
if command -v curl >/dev/null 2>&1; then
	printf 'url = "%s"\n' "$TOOL_URL" |
		curl --fail --silent --show-error --location --retry 3 --max-time 120 --output "$tool" --config - ||
		die "fetching the collector failed (curl status $?)"
elif command -v wget >/dev/null 2>&1; then
	printf '%s\n' "$TOOL_URL" | wget -q -T 120 -O "$tool" -i - ||
		die "fetching the collector failed (wget status $?)"
else
	die "neither curl nor wget is installed"
fi
got=$(sha256sum "$tool")
got=${got%% *}
[ "$got" = "$want" ] || die "the collector has another SHA-256 than expected: not run"

unset TOOL_URL
export NONCE OUT_URL VM_ID
"$tool" collect --from-env
`
