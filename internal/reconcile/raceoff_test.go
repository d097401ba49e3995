//go:build !race

package reconcile

// raceEnabled says that the race detector would make everything several times slower.
const raceEnabled = false
