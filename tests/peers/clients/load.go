// Long bodies and many connections: `load upload|download URL SIZE [chunked]`, `load crowd BASE CONNECTIONS ROUNDS`.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func pattern(size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i % 251)
	}
	return body
}

// The pattern again and again, up to so many bytes; never all of it in memory.
type endless struct {
	block []byte
	at    int
	left  int
}

func (e *endless) Read(into []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(into, e.block[e.at:])
	if n > e.left {
		n = e.left
	}
	e.left -= n
	e.at = (e.at + n) % len(e.block)
	return n, nil
}

func upload(url string, size int, chunked bool) {
	request, err := http.NewRequest("POST", url, &endless{block: pattern(251 * 4096), left: size})
	if err != nil {
		log.Fatal(err)
	}
	if !chunked {
		request.ContentLength = int64(size)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d %s", answer.StatusCode, body)
}

func download(url string) {
	answer, err := http.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	hash := sha256.New()
	length, err := io.Copy(hash, answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d %d %x\n", answer.StatusCode, length, hash.Sum(nil))
}

// What one of the crowd asks in each round, and what it is to get.
var round = []struct {
	method, path string
	size, status int
	start        string
}{
	{"GET", "/jobs", -1, 200, "jobs\n"},
	{"GET", "/applicants", -1, 403, "denied by policy: "},
	{"POST", "/up", 1000, 200, "1000 "},
	{"POST", "/applicants", 1000, 403, "denied by policy: "},
}

func ask(client *http.Client, base string, number int) error {
	call := round[number%len(round)]
	var body io.Reader
	if call.size >= 0 {
		body = bytes.NewReader(pattern(call.size))
	}
	request, err := http.NewRequest(call.method, base+call.path, body)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && (answer.StatusCode != call.status || !strings.HasPrefix(string(content), call.start)) {
		err = fmt.Errorf("%s %s: %d %q", call.method, call.path, answer.StatusCode, content)
	}
	return err
}

// Everybody asks once; only when all have been answered, and so all connections stand, does anybody go on.
func crowd(base string, connections, rounds int) {
	var all sync.WaitGroup
	var standing sync.WaitGroup
	standing.Add(connections)
	wrong := make(chan error, connections)
	for i := 0; i < connections; i++ {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			client := &http.Client{Transport: &http.Transport{}, Timeout: 45 * time.Second}
			err := ask(client, base, i)
			standing.Done()
			standing.Wait()
			for n := 1; err == nil && n < rounds*len(round); n++ {
				err = ask(client, base, i+n)
			}
			if err != nil {
				wrong <- err
			}
		}(i)
	}
	all.Wait()
	close(wrong)
	for err := range wrong {
		fmt.Println(err)
	}
}

func main() {
	number := func(at int) int {
		value, err := strconv.Atoi(os.Args[at])
		if err != nil {
			log.Fatal(err)
		}
		return value
	}
	switch os.Args[1] {
	case "upload":
		upload(os.Args[2], number(3), len(os.Args) > 4)
	case "download":
		download(os.Args[2])
	case "crowd":
		crowd(os.Args[2], number(3), number(4))
	}
}
