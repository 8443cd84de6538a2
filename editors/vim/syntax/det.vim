" Words are keywords only where what follows makes them so, as in dsl/grammar.lark: elsewhere they are names.
if exists('b:current_syntax')
  finish
endif

syntax match detName /\v<\h\w*>/
syntax match detFunction /\v<\h\w*\(@=/

syntax match detDeclaration /\v<(block|backbone|neck|head|cell|model|op|record)>(\s+\h\w*\s*\()@=/ nextgroup=detDeclared skipwhite
syntax match detDeclaration /\v<(let|detector)>(\s+\h)@=/ nextgroup=detDeclared skipwhite
syntax match detDeclared /\v<\h\w*>/ contained
syntax match detStatement /\v<(import|default|attr|align)>(\s+\h)@=/
syntax match detStatement /\v<(reported|predict)>(\s*\{)@=/
syntax match detStatement /\v<train>(\s*\(\s*\w+\s*\)\s*\{)@=/
syntax match detStatement /\v<(loss|apply)>(\s+[A-Za-z_`])@=/
syntax match detStatement /\v<require>(\s+[A-Za-z_(0-9])@=/
syntax match detStatement /\v<(freeze|init|tie)>(\s+[A-Za-z_`[])@=/
syntax match detStatement /\v<label>(\s+")@=/
syntax match detStatement /\v<(weight|buffer)>(\s+\h\w*\s*:)@=/
syntax match detStatement /\v<from>(\s+")@=/
syntax match detStatement /\v(\]\s)@<=of>(\s+\h)@=/
syntax match detStatement /\v([A-Za-z0-9_`\]]\s)@<=to>(\s+[A-Za-z_`[])@=/

syntax match detConditional /\v<(if|then|else)>/
syntax match detRepeat /\v<(for|in)>/
syntax match detStatement /\v<(return|with)>/
syntax match detWord /\v<(and|or|not)>/
syntax match detConstant /\v<(true|false|none)>/

syntax match detType /\v(:\s+\[?|-\>\s+)@<=(int|float|bool|string|levels|any|function|record|truth|feature|tensor|pyramid|bundle|block|cell|backbone|neck|head|model|op)>(\]?\??\s*[,)={])@=/
syntax match detNumber /\v<\d+(\.\d+)?([eE][+-]?\d+)?>/
syntax match detOperator /\v\|\>|-\>|\.\.\<?|[-+*%&?]|[=!<>]\=|\//
syntax match detEscape /\\./ contained
syntax region detString start=/"/ skip=/\\./ end=/"/ oneline contains=detEscape
syntax region detTemplate start=/`/ end=/`/ oneline contains=detInterpolated
syntax match detInterpolated /{[^{}`]*}/ contained
syntax match detComment /#.*/ contains=@Spell
syntax match detDocumentation /##.*/ contains=@Spell

highlight default link detComment Comment
highlight default link detDocumentation SpecialComment
highlight default link detString String
highlight default link detTemplate String
highlight default link detEscape SpecialChar
highlight default link detInterpolated Special
highlight default link detNumber Number
highlight default link detConstant Constant
highlight default link detDeclaration Structure
highlight default link detDeclared Identifier
highlight default link detStatement Statement
highlight default link detConditional Conditional
highlight default link detRepeat Repeat
highlight default link detWord Operator
highlight default link detOperator Operator
highlight default link detType Type
highlight default link detFunction Function

let b:current_syntax = 'det'
