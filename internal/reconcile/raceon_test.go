//go:build race

package reconcile

// raceEnabled says that the race detector makes everything several times slower.
const raceEnabled = true
