// Reads a layer with the library of stargz-snapshotter and says what it found.
//
//	estargz_reader BLOB TOC-DIGEST
//
// The table of contents has the digest, every chunk the digest that the table names, every file its size; else the
// status is not 0. On stdout is one line of JSON for each entry of the table.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
)

type entry struct {
	Name    string            `json:"name"`
	Type    string            `json:"type"`
	Link    string            `json:"link"`
	Time    string            `json:"time"`
	Mode    int64             `json:"mode"`
	UID     int               `json:"uid"`
	GID     int               `json:"gid"`
	Major   int               `json:"major"`
	Minor   int               `json:"minor"`
	Xattrs  map[string][]byte `json:"xattrs"`
	Content string            `json:"content"`
	Chunks  int               `json:"chunks"`
}

func must(what string, err error) {
	if err != nil {
		log.Fatalf("%q: %v", what, err)
	}
}

// content is the digest of a file's bytes and how many chunks they are in, each verified.
func content(r *estargz.Reader, verifiers estargz.TOCEntryVerifier, e *estargz.TOCEntry) (string, int) {
	file, err := r.OpenFile(e.Name)
	must(e.Name, err)
	whole, chunks := sha256.New(), 0
	for offset := int64(0); offset < e.Size; chunks++ {
		chunk, ok := r.ChunkEntryForOffset(e.Name, offset)
		if !ok || chunk.ChunkSize == 0 {
			log.Fatalf("%q: no chunk at %d", e.Name, offset)
		}
		verifier, err := verifiers.Verifier(chunk)
		must(e.Name, err)
		// at once: each read of a part decompresses its chunk from the beginning
		data := make([]byte, chunk.ChunkSize)
		_, err = file.ReadAt(data, chunk.ChunkOffset)
		must(e.Name, err)
		verifier.Write(data)
		whole.Write(data)
		if !verifier.Verified() {
			log.Fatalf("%q: the chunk at %d is not what the table says", e.Name, offset)
		}
		offset += chunk.ChunkSize
	}
	return fmt.Sprintf("%x", whole.Sum(nil)), chunks
}

func main() {
	log.SetFlags(0)
	file, err := os.Open(os.Args[1])
	must("open", err)
	status, err := file.Stat()
	must("stat", err)
	r, err := estargz.Open(io.NewSectionReader(file, 0, status.Size()))
	must("table", err)
	verifiers, err := r.VerifyTOC(digest.Digest(os.Args[2]))
	must("digest of the table", err)
	out := json.NewEncoder(os.Stdout)
	var walk func(string, *estargz.TOCEntry)
	walk = func(path string, e *estargz.TOCEntry) {
		found := entry{path, e.Type, e.LinkName, e.ModTime3339, e.Mode, e.UID, e.GID, e.DevMajor, e.DevMinor, e.Xattrs, "", 0}
		if e.Type == "reg" && e.Size > 0 {
			found.Content, found.Chunks = content(r, verifiers, e)
		}
		must("output", out.Encode(found))
		e.ForeachChild(func(name string, child *estargz.TOCEntry) bool {
			walk(path+"/"+name, child)
			return true
		})
	}
	root, ok := r.Lookup("")
	if !ok {
		log.Fatal("there is no root")
	}
	walk("", root)
}
