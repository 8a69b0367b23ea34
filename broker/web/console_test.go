package web

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser starts a headless Chromium with a profile of its own, or skips.
func browser(t *testing.T, width, height int) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if os.Getenv("TAILRACE_CI") == "1" {
			t.Fatal("no chromium on PATH; the console must be tested in CI")
		}
		t.Skip("no chromium on PATH: install it to test the console")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(width, height),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-background-networking", true),
		chromedp.WSURLReadTimeout(deadline))
	ctx, cancelDeadline := context.WithTimeout(context.Background(), 2*deadline)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, opts...)
	ctx, cancelBrowser := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		// Cancel waits for the browser to end before its profile is removed.
		_ = chromedp.Cancel(ctx)
		cancelBrowser()
		cancelAllocator()
		cancelDeadline()
	})
	return ctx
}

// payload would run if the page ever put a record into markup.
const payload = `<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>`

// do runs steps in the page.
func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// ask runs one action that has a value.
func ask[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// until waits for an expression to be true in the page.
func until(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	ask(t, ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(deadline)))
}

// TestConsole loads the page, looks at the tables and sees a record arrive as
// text, hostile markup included.
func TestConsole(t *testing.T) {
	f := start(t, nil)
	ctx := browser(t, 1280, 800)
	do(t, ctx,
		chromedp.Navigate("http://"+f.addr+"/"),
		chromedp.WaitVisible(`#brokers tbody tr:nth-child(3)`),
		chromedp.WaitVisible(`#topics tbody tr:nth-child(2)`),
		chromedp.Click(`#topics tbody tr:nth-child(2) button`),
		chromedp.WaitVisible(`#topics tbody tr:nth-child(5)`),
		chromedp.SetValue(`#tail-topic`, "orders"),
		chromedp.Click(`#tail-go`),
	)
	brokers := ask(t, ctx, chromedp.Text(`#brokers`))
	for _, want := range []string{"alive, controller", "down", "127.0.0.1:9093", "r3"} {
		if !strings.Contains(brokers, want) {
			t.Errorf("brokers lack %q:\n%s", want, brokers)
		}
	}
	topics := ask(t, ctx, chromedp.Text(`#topics`))
	for _, want := range []string{"clicks", "orders", "partition 2", "broker 2, epoch 3", "2,000"} {
		if !strings.Contains(topics, want) {
			t.Errorf("topics lack %q:\n%s", want, topics)
		}
	}
	waitFor(t, "the page to open a tail", func() bool { return len(f.tailer.asked) > 0 })
	f.push(record(0, "customer-17", payload))
	f.push(record(1, "customer-18", `{"item":"tea","n":2}`))
	do(t, ctx, chromedp.WaitVisible(`#records li:nth-child(2)`))
	if shown := ask(t, ctx, chromedp.TextContent(`#records li:nth-child(2) .value`)); shown != payload {
		t.Errorf("the record shows as %q", shown)
	}
	if title := ask(t, ctx, chromedp.Title()); title != "Tailrace" {
		t.Errorf("the record's script ran: title %q", title)
	}
	f.source.extra.Add(500)
	screenshot(t, ctx, "console.png")
}

// TestConsolePauseAndFilter holds records back while paused and hides what the
// filter does not match, on a page as wide as a phone.
func TestConsolePauseAndFilter(t *testing.T) {
	f := start(t, nil)
	ctx := browser(t, 390, 844)
	do(t, ctx,
		chromedp.EmulateViewport(390, 844),
		chromedp.Navigate("http://"+f.addr+"/"),
		chromedp.WaitVisible(`#topics tbody tr:nth-child(2)`),
		chromedp.SetValue(`#tail-topic`, "orders"),
		chromedp.Click(`#tail-go`),
		chromedp.WaitEnabled(`#tail-pause`),
		chromedp.Click(`#tail-pause`),
	)
	waitFor(t, "the page to open a tail", func() bool { return len(f.tailer.asked) > 0 })
	f.push(record(0, "a", "apple"))
	f.push(record(1, "b", "banana"))
	until(t, ctx, `document.getElementById("tail-state").textContent.includes("paused, 2 waiting")`)
	if held := ask(t, ctx, chromedp.Evaluate[int](`document.querySelectorAll("#records li").length`)); held != 0 {
		t.Errorf("paused, but %d records are shown", held)
	}
	do(t, ctx,
		chromedp.Click(`#tail-pause`),
		chromedp.WaitVisible(`#records li:nth-child(2)`),
		chromedp.SendKeys(`#tail-filter`, "BANANA"),
	)
	until(t, ctx, `document.querySelectorAll("#records li:not([hidden])").length === 1`)
	if visible := ask(t, ctx, chromedp.Text(`#records li:not([hidden])`)); !strings.Contains(visible, "banana") {
		t.Errorf("the filter shows %q", visible)
	}
	if width := ask(t, ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth`)); width > 390 {
		t.Errorf("the page is %d pixels wide on a phone of 390", width)
	}
	screenshot(t, ctx, "phone.png")
}

// screenshot saves the page to the directory in TAILRACE_SCREENSHOTS, if set.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("TAILRACE_SCREENSHOTS")
	if dir == "" {
		return
	}
	time.Sleep(2500 * time.Millisecond) // two polls, so that rates show
	png := ask(t, ctx, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o600); err != nil {
		t.Fatal(err)
	}
}
