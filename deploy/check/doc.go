// Package check holds what is under deploy/ to its word: the chart, the compose file,
// the image and the unit.
//
// It is a module of its own, because it needs Helm, the types of Kubernetes and the
// parsers of compose and Docker, of which the service needs nothing. It knows the
// service only as a program: settings are judged by running it, and the image is
// proven by running its binary in a root that has nothing else.
//
// Nothing is fetched but Go modules, and no cluster, engine or manager is needed.
package check
