package size

import "testing"

func TestOf(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 40: "5.0 TiB", 5 << 50: "5120.0 TiB"} {
		if got := Of(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
