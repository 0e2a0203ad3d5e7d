//go:build !wrong_confirm_early

package mutant

// ConfirmEarly tells the slot before the checkpoint was committed and read back.
const ConfirmEarly = false
