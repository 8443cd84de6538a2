autocmd BufNewFile,BufRead *.det setfiletype det
