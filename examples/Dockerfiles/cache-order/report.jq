group_by(.kind)[] | "\(.[0].kind): \(map(.size) | add) bytes in \(length) file(s)"
