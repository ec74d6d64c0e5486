// net/http as it comes. See common.py for what goes in and out.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func pattern(size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i % 251)
	}
	return body
}

// A reader that net/http knows no length of: the body goes out in chunks.
type unmeasured struct{ io.Reader }

func ask(transport http.RoundTripper, base string, column []string) string {
	flags := "," + column[3] + ","
	var body io.Reader
	if size, _ := strconv.Atoi(column[2]); size >= 0 {
		body = bytes.NewReader(pattern(size))
		if strings.Contains(flags, ",chunked,") {
			body = unmeasured{body}
		}
	}
	request, err := http.NewRequest(column[0], base+column[1], body)
	if err != nil {
		return fmt.Sprintf("error %x", err.Error())
	}
	// Told to accept gzip, net/http no longer unpacks it; left alone it accepts it by itself.
	if name, value, found := strings.Cut(column[5], ": "); found && name != "Accept-Encoding" {
		request.Header.Set(name, value)
	}
	if strings.Contains(flags, ",expect,") {
		request.Header.Set("Expect", "100-continue")
	}
	request.Close = strings.Contains(flags, ",close,")
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	if !strings.Contains(flags, ",follow,") {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Sprintf("error %x", err.Error())
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Sprintf("error %x", err.Error())
	}
	length := answer.Header.Get("Content-Length")
	if length == "" {
		length = "-"
	}
	start := content
	if len(start) > 200 {
		start = start[:200]
	}
	return fmt.Sprintf("%d %d %x %s %x", answer.StatusCode, len(content), sha256.Sum256(content), length, start)
}

func main() {
	transport := &http.Transport{ExpectContinueTimeout: 10 * time.Second}
	script := bufio.NewScanner(os.Stdin)
	for script.Scan() {
		column := strings.Split(script.Text(), "\t")
		parallel, _ := strconv.Atoi(column[4])
		answers := make(chan string)
		for i := 0; i < parallel; i++ {
			go func() { answers <- ask(transport, os.Args[1], column) }()
		}
		for i := 0; i < parallel; i++ {
			fmt.Println(<-answers)
		}
	}
}
