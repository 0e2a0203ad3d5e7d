// Package pipeline drives handlers that are no Go: an HTTP endpoint and a
// child process.
//
// Its job is to turn one event into one request (Webhook) or one line
// (Child), to wait for the answer, and to say what the answer means: done, try
// again, not before, never. Webhook.Handle and Child.Handle are handlers of
// package consumer.
//
// Invariants: an event is done only when the other side has said so; silence,
// garbage, death and every doubt mean "again". So the other side may see an
// event twice, and is told the event's id with each attempt. Whoever is not to
// blame pays nothing: when a child dies with several events outstanding, they
// are tried again one at a time, and only the one that a child dies over has
// used up an attempt. No secret is part of an error, a log line or a metric,
// and of a URL only scheme and host are. Memory is bounded: by the number of
// events that are handled at once, by the longest line and by what is read of
// a response. A child has no child of ours to survive it: it is stopped with
// its process group, and on Linux it dies with the pipeline.
//
// It leaves to package consumer the group, the order of keys, retries, dead
// letters and deduplication, and to the command the settings. Redirects are
// not followed, and no address is refused: whom to call is the choice of
// whoever set the URL.
package pipeline
