if exists('b:did_indent')
  finish
endif
let b:did_indent = 1

setlocal indentexpr=DetIndent(v:lnum) indentkeys=0},0],0),o,O
let b:undo_indent = 'setlocal indentexpr< indentkeys<'

if exists('*DetIndent')
  finish
endif

" A line that opens a bracket indents the next, and one that begins with a closing one goes back.
function DetIndent(number)
  let before = prevnonblank(a:number - 1)
  if before == 0
    return 0
  endif
  let text = substitute(getline(before), '#.*$', '', '')
  let depth = indent(before)
  if text =~# '[{[(]\s*$'
    let depth += shiftwidth()
  endif
  if getline(a:number) =~# '^\s*[]})]'
    let depth -= shiftwidth()
  endif
  return depth
endfunction
