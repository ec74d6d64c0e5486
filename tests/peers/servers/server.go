// net/http as a server. See answers.py for what goes in and out.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

var record *os.File

func pattern(size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i % 251)
	}
	return body
}

func gzipped() []byte {
	var out bytes.Buffer
	writer := gzip.NewWriter(&out)
	writer.Write([]byte(strings.Repeat("racecar ", 2000)))
	writer.Close()
	return out.Bytes()
}

// The body is hashed as it comes: uploads may be of any length.
func upload(request *http.Request) (string, error) {
	hash := sha256.New()
	length, err := io.Copy(hash, request.Body)
	return fmt.Sprintf("%d %x\n", length, hash.Sum(nil)), err
}

// As many bytes as the query asks for, with or without a length.
func download(answer http.ResponseWriter, request *http.Request) {
	size, _ := strconv.Atoi(request.URL.Query().Get("size"))
	if request.URL.Query().Get("chunked") == "" {
		answer.Header().Set("Content-Length", strconv.Itoa(size))
	}
	block := pattern(251 * 4096)
	for size > 0 {
		if size < len(block) {
			block = block[:size]
		}
		if _, err := answer.Write(block); err != nil {
			return
		}
		size -= len(block)
	}
}

func write(request *http.Request) {
	_, port, _ := net.SplitHostPort(request.RemoteAddr)
	peer, _ := strconv.Atoi(port)
	chunked := len(request.TransferEncoding) == 1 && request.TransferEncoding[0] == "chunked"
	line, _ := json.Marshal(map[string]any{
		"method": request.Method, "target": request.RequestURI, "version": request.Proto,
		"host": request.Host, "chunked": chunked, "peer": peer,
	})
	record.Write(append(line, '\n'))
}

func handle(answer http.ResponseWriter, request *http.Request) {
	uploaded, err := upload(request)
	if err != nil {
		return // the client did not come to its end
	}
	write(request)
	header := answer.Header()
	header.Set("Content-Type", "text/plain")
	path := request.URL.Path
	switch path[strings.LastIndex(path, "/")+1:] {
	case "up":
		io.WriteString(answer, uploaded)
	case "jobs":
		io.WriteString(answer, "jobs\n")
	case "echo":
		io.WriteString(answer, request.RequestURI)
	case "nothing":
		header.Del("Content-Type")
		answer.WriteHeader(204)
	case "unchanged":
		header.Set("ETag", `"one"`)
		answer.WriteHeader(304)
	case "large":
		for _, piece := range [][]byte{large[:1], large[1:1000], large[1000:70000], large[70000:]} {
			answer.Write(piece)
			answer.(http.Flusher).Flush()
		}
	case "gzip":
		header.Set("Content-Encoding", "gzip")
		answer.Write(packed)
	case "moved":
		header.Set("Location", strings.TrimSuffix(path, "moved")+"jobs")
		answer.WriteHeader(302)
	case "moved-away":
		header.Set("Location", strings.TrimSuffix(path, "moved-away")+"applicants")
		answer.WriteHeader(302)
	case "close":
		header.Set("Connection", "close")
		io.WriteString(answer, "closing\n")
	case "download":
		download(answer, request)
	case "applicants":
		io.WriteString(answer, "SECRET\n")
	default:
		answer.WriteHeader(404)
	}
}

var large, packed = pattern(1 << 20), gzipped()

func main() {
	var err error
	if record, err = os.OpenFile(os.Getenv("RECORD"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		log.Fatal(err)
	}
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(handle)))
}
