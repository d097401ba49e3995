// Package estatetest makes captured estates for tests: bodies as Azure answers
// them, of good confidential VMs and of VMs with one thing changed, with what a
// judge must say of each. It knows nothing of the packages that it tests.
package estatetest
