// Package bugs holds the planted bugs: constants that are false in every ordinary
// build, so that the compiler removes what they guard, and true under the build
// tag bug_<name>. The simulator must find each; a guard whose planted bug nobody
// finds is a guard without a test.
package bugs
