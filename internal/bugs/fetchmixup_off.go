//go:build !bug_fetchmixup

package bugs

// FetchMixup: an answer to a fetch is taken as the answer to a later one.
const FetchMixup = false
