if exists('b:did_ftplugin')
  finish
endif
let b:did_ftplugin = 1

setlocal commentstring=#\ %s comments=b:##,b:# formatoptions+=croql
setlocal expandtab shiftwidth=4 softtabstop=4 textwidth=120

let b:undo_ftplugin = 'setlocal commentstring< comments< formatoptions< expandtab< shiftwidth< softtabstop< textwidth<'
