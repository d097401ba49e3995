package estate

import (
	"maps"
	"slices"
)

// Of is the estate that bodies in memory make, each under the name by which
// Troubles speak of it. What they hold is read as Open reads files.
func Of(bodies map[string][]byte) *Estate {
	e := empty()
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		e.files++
		if text := utf8Of(bodies[name]); looksLikeJSON(name, text) {
			e.file(name, text)
		}
	}
	e.finish()
	return e
}
