//go:build !wrong_trust_commit

package mutant

// TrustCommitError believes an error from a commit to mean that nothing was committed, and runs the group again.
const TrustCommitError = false
